"""Help several packages: files, progress bars, checkpoints on disk, signals."""
