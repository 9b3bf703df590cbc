"""Weights in and out: the names of the original repositories, ours, and those of stock ViTs."""
