"""Hook into a run: checkpoints, signals, non-finite losses, unreadable images and monitoring."""

from xtra_toolkit.hooks.atomic_checkpoint_hook import AtomicCheckpointHook
from xtra_toolkit.hooks.online_probe_hook import OnlineProbe
from xtra_toolkit.hooks.reconstruction_hook import ReconstructionHook
from xtra_toolkit.hooks.safe_resume_hook import SafeResume
from xtra_toolkit.hooks.save_on_signal_hook import SaveOnSignal
from xtra_toolkit.hooks.skip_bad_images_hook import SkipBadImages
from xtra_toolkit.hooks.split_loss_hook import SplitLoss
from xtra_toolkit.hooks.step_logger_hook import StepLogger
from xtra_toolkit.hooks.stop_on_non_finite_loss_hook import StopOnNonFiniteLoss
from xtra_toolkit.hooks.throughput_hook import Throughput

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
