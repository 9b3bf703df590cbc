"""Pictures, curves and reports of objectives, predictions and runs."""

from xtra_toolkit.visualization.local_files import LocalFiles
from xtra_toolkit.visualization.trackers import MLflowTracker, TensorBoardTracker, WandbTracker
from xtra_toolkit.visualization.visualizer import Visualizer

__all__ = [
    "LocalFiles",
    "MLflowTracker",
    "TensorBoardTracker",
    "Visualizer",
    "WandbTracker",
]
