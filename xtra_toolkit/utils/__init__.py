"""Helpers that several packages share: files, progress bars, checkpoints on disk."""
