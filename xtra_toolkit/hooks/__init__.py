"""Hooks: checkpoints that resume and survive, and a stop when the loss is no number any more."""

from xtra_toolkit.hooks.bad import SkipBadImages
from xtra_toolkit.hooks.checkpoint import AtomicCheckpointHook
from xtra_toolkit.hooks.finite import StopOnNonFiniteLoss
from xtra_toolkit.hooks.logger import StepLogger
from xtra_toolkit.hooks.pictures import ReconstructionHook
from xtra_toolkit.hooks.preempt import SaveOnSignal
from xtra_toolkit.hooks.probe import OnlineProbe
from xtra_toolkit.hooks.resume import SafeResume
from xtra_toolkit.hooks.split import SplitLoss
from xtra_toolkit.hooks.throughput import Throughput

__all__ = [
    "AtomicCheckpointHook",
    "OnlineProbe",
    "ReconstructionHook",
    "SafeResume",
    "SaveOnSignal",
    "SkipBadImages",
    "SplitLoss",
    "StepLogger",
    "StopOnNonFiniteLoss",
    "Throughput",
]
