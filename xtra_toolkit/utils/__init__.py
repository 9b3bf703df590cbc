"""Share helpers between packages: files, progress bars, checkpoints on disk, signals."""
