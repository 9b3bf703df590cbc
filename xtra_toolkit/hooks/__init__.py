"""Hooks: checkpoints that resume and survive, and a stop when the loss is no number any more."""

from xtra_toolkit.hooks.bad import SkipBadImages
from xtra_toolkit.hooks.checkpoint import AtomicCheckpointHook
from xtra_toolkit.hooks.finite import StopOnNonFiniteLoss
from xtra_toolkit.hooks.preempt import SaveOnSignal
from xtra_toolkit.hooks.resume import SafeResume

__all__ = [
    "AtomicCheckpointHook",
    "SafeResume",
    "SaveOnSignal",
    "SkipBadImages",
    "StopOnNonFiniteLoss",
]
