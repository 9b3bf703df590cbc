"""Data sets, transforms and the sampler of global batches."""

from xtra_toolkit.data.digits import Digits
from xtra_toolkit.data.folder import ImageFolder
from xtra_toolkit.data.loading import LoadImage
from xtra_toolkit.data.sampler import GlobalBatchSampler
from xtra_toolkit.data.seeded import SeededSamples

__all__ = ["Digits", "GlobalBatchSampler", "ImageFolder", "LoadImage", "SeededSamples"]
