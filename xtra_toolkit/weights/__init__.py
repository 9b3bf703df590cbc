"""Weights in and out: the original repositories' names, ours, and those of stock ViTs."""
