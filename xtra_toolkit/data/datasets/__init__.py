"""Define the data sets of images."""
