"""my_target: the mean colour of each token of the next unit. Replace this by your target."""

import torch
from einops import reduce
from torch import Tensor

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.masks import Mask
from xtra_toolkit.objective.links import Links
from xtra_toolkit.registry import MODELS
from xtra_toolkit.targets import PixelTarget


@MODELS.register_module()
class MyTarget(PixelTarget):
    """Predict the mean colour of each token of the next unit from the outputs of a unit.

    Args:
        normalise: Whether the values of a unit are normalised by their mean and standard deviation.
    """

    pixels = False  # the values are not pixels, so predictions cannot be drawn as images

    def __init__(self, normalise: bool = False):
        super().__init__(normalise)

    def pairs(self, mask: Mask, grid: PatchGrid) -> list[Links]:
        """Return source positions (1, G, S) and target positions (1, G, T), for equal units."""
        _, sizes = mask.unit.unique_consecutive(return_counts=True)
        units = torch.arange(len(mask)).view(len(sizes), -1)
        return [Links(source_positions=units[None, :-1], target_positions=units[None, 1:])]

    def width(self, grid: PatchGrid) -> int:
        """Return the number of values of one token: its channels."""
        return grid.channels

    def values(self, images: Tensor, grid: PatchGrid) -> Tensor:
        """Compute (B, tokens, C) in raster order from images (B, C, height, width)."""
        return reduce(grid.patchify(images), "b n (c p) -> b n c", "mean", c=grid.channels)
