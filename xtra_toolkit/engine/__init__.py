"""The training loop, kNN validation and the optimizer wrapper."""

from xtra_toolkit.engine.knn import KNNTestLoop, KNNValLoop
from xtra_toolkit.engine.loop import GlobalBatchLoop
from xtra_toolkit.engine.optim import AutocastOptimWrapper
from xtra_toolkit.engine.sweep import SweepOptimWrapper, SweepOptimWrapperConstructor

__all__ = [
    "AutocastOptimWrapper",
    "GlobalBatchLoop",
    "KNNTestLoop",
    "KNNValLoop",
    "SweepOptimWrapper",
    "SweepOptimWrapperConstructor",
]
