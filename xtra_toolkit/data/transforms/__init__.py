"""Define the transforms of the data pipeline."""
