"""Helpers that several rooms share: files, progress bars, checkpoints on disk."""
