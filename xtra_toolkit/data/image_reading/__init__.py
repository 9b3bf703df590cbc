"""Decode image files and resize them."""
