"""Composable masks and targets for pretraining image models, on MMPretrain."""

__version__ = "0.1.0"
