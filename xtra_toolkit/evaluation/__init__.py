"""Evaluate an encoder: probes, kNN, features, metrics and segmentation."""

from xtra_toolkit.evaluation.attentive_probe import AttentiveProbe, AverageLayers
from xtra_toolkit.evaluation.inference import InferenceTestLoop, InferenceValLoop
from xtra_toolkit.evaluation.knn import KNNTestLoop, KNNValLoop
from xtra_toolkit.evaluation.metrics import MeanIoU, PretrainLoss
from xtra_toolkit.evaluation.probe_sweep import ProbeSweep, SweepAccuracy
from xtra_toolkit.evaluation.segmentation_dataset import (
    LoadSegMap,
    RandomResizedCropWithSegMap,
    SegmentationFolder,
)
from xtra_toolkit.evaluation.segmentor import LinearSegmentor
from xtra_toolkit.evaluation.sweep_optim_wrapper import (
    SweepOptimWrapper,
    SweepOptimWrapperConstructor,
)

__all__ = [
    "AttentiveProbe",
    "AverageLayers",
    "InferenceTestLoop",
    "InferenceValLoop",
    "KNNTestLoop",
    "KNNValLoop",
    "LinearSegmentor",
    "LoadSegMap",
    "MeanIoU",
    "PretrainLoss",
    "ProbeSweep",
    "RandomResizedCropWithSegMap",
    "SegmentationFolder",
    "SweepAccuracy",
    "SweepOptimWrapper",
    "SweepOptimWrapperConstructor",
]
