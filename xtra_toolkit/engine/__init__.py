"""The training loop, validation, kNN and the optimizer wrapper."""

from xtra_toolkit.engine.flexible import ShardedRunner
from xtra_toolkit.engine.fsdp import ShardedStrategy
from xtra_toolkit.engine.inference import InferenceTestLoop, InferenceValLoop
from xtra_toolkit.engine.knn import KNNTestLoop, KNNValLoop
from xtra_toolkit.engine.local_files import LocalFiles
from xtra_toolkit.engine.loop import GlobalBatchLoop
from xtra_toolkit.engine.masters import MasterWeightsOptimWrapper
from xtra_toolkit.engine.optim import AutocastOptimWrapper
from xtra_toolkit.engine.sweep import SweepOptimWrapper, SweepOptimWrapperConstructor
from xtra_toolkit.engine.trackers import MLflowTracker, TensorBoardTracker, WandbTracker
from xtra_toolkit.engine.visualizer import Visualizer

__all__ = [
    "AutocastOptimWrapper",
    "GlobalBatchLoop",
    "InferenceTestLoop",
    "InferenceValLoop",
    "KNNTestLoop",
    "KNNValLoop",
    "LocalFiles",
    "MLflowTracker",
    "MasterWeightsOptimWrapper",
    "ShardedRunner",
    "ShardedStrategy",
    "SweepOptimWrapper",
    "SweepOptimWrapperConstructor",
    "TensorBoardTracker",
    "Visualizer",
    "WandbTracker",
]
