"""Hooks: checkpoints that resume, and a stop when the loss is no number any more."""

from xtra_toolkit.hooks.finite import StopOnNonFiniteLoss
from xtra_toolkit.hooks.resume import SafeResume

__all__ = ["SafeResume", "StopOnNonFiniteLoss"]
