"""Data sets, transforms and the sampler of global batches."""

from xtra_toolkit.data.digits import Digits
from xtra_toolkit.data.folder import ImageFolder
from xtra_toolkit.data.loading import LoadImage, RGBToBGR
from xtra_toolkit.data.sampler import GlobalBatchSampler
from xtra_toolkit.data.seeded import SeededSamples
from xtra_toolkit.data.segmentation import (
    LoadSegMap,
    RandomResizedCropWithSegMap,
    SegmentationFolder,
)
from xtra_toolkit.data.wrap import Seeded

__all__ = [
    "Digits",
    "GlobalBatchSampler",
    "ImageFolder",
    "LoadImage",
    "LoadSegMap",
    "RGBToBGR",
    "RandomResizedCropWithSegMap",
    "Seeded",
    "SeededSamples",
    "SegmentationFolder",
]
