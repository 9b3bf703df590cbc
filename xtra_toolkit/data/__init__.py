"""Data sets, transforms and the sampler of global batches."""

from xtra_toolkit.data.bad import SkipsBadImages
from xtra_toolkit.data.crop import RandomFlip, RandomResizedCrop
from xtra_toolkit.data.digits import Digits
from xtra_toolkit.data.folder import ImageFolder
from xtra_toolkit.data.loading import LoadImage, ReadImage, RGBToBGR
from xtra_toolkit.data.packed import PackedImages
from xtra_toolkit.data.packing import PackInputs, channels_last_collate
from xtra_toolkit.data.sampler import GlobalBatchSampler
from xtra_toolkit.data.seeded import SeededSamples
from xtra_toolkit.data.segmentation import (
    LoadSegMap,
    RandomResizedCropWithSegMap,
    SegmentationFolder,
)
from xtra_toolkit.data.shards import Shards
from xtra_toolkit.data.wrap import Seeded

__all__ = [
    "Digits",
    "GlobalBatchSampler",
    "ImageFolder",
    "LoadImage",
    "LoadSegMap",
    "PackInputs",
    "PackedImages",
    "RGBToBGR",
    "RandomFlip",
    "RandomResizedCrop",
    "RandomResizedCropWithSegMap",
    "ReadImage",
    "Seeded",
    "SeededSamples",
    "SegmentationFolder",
    "Shards",
    "SkipsBadImages",
    "channels_last_collate",
]
