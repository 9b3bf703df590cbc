"""Targets: what is predicted, and from where."""

from xtra_toolkit.objective.target import Target
from xtra_toolkit.targets.build import build_target
from xtra_toolkit.targets.colour import NextColour
from xtra_toolkit.targets.embedding import NextEmbedding
from xtra_toolkit.targets.hog import HOG
from xtra_toolkit.targets.masked import MaskedPatches
from xtra_toolkit.targets.next import NextBlock, NextToken
from xtra_toolkit.targets.pixels import PixelTarget
from xtra_toolkit.targets.sum import SumOfTargets
from xtra_toolkit.targets.wrapped import WrappedTarget

__all__ = [
    "HOG",
    "MaskedPatches",
    "NextBlock",
    "NextColour",
    "NextEmbedding",
    "NextToken",
    "PixelTarget",
    "SumOfTargets",
    "Target",
    "WrappedTarget",
    "build_target",
]
