"""Read images: data sets, transforms, decoders and the sampler of global batches."""

from xtra_toolkit.data.datasets.digits import Digits
from xtra_toolkit.data.datasets.image_folder import ImageFolder
from xtra_toolkit.data.datasets.packed_images import PackedImages
from xtra_toolkit.data.datasets.seeded_dataset import SeededDataset
from xtra_toolkit.data.datasets.shards import Shards
from xtra_toolkit.data.datasets.skip_bad_images import SkipsBadImages
from xtra_toolkit.data.sampler import GlobalBatchSampler
from xtra_toolkit.data.seeding import SeededSamples
from xtra_toolkit.data.transforms.crop import RandomFlip, RandomResizedCrop
from xtra_toolkit.data.transforms.loading import LoadImage, ReadImage, RGBToBGR
from xtra_toolkit.data.transforms.packing import PackInputs, channels_last_collate

__all__ = [
    "Digits",
    "GlobalBatchSampler",
    "ImageFolder",
    "LoadImage",
    "PackInputs",
    "PackedImages",
    "RGBToBGR",
    "RandomFlip",
    "RandomResizedCrop",
    "ReadImage",
    "SeededDataset",
    "SeededSamples",
    "Shards",
    "SkipsBadImages",
    "channels_last_collate",
]
