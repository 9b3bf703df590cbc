"""Transforms of the data pipeline."""
