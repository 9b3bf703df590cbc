"""my_target: the mean colour of each token of the next unit. Put your idea here."""

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
    """The outputs of a unit predict the mean colour of each token of the next.

    Args:
        normalise: by the mean and the standard deviation of a unit's values.
    """

    pixels = False  # its values are no pixels, so they cannot be drawn

    def __init__(self, normalise: bool = False):
        super().__init__(normalise)

    def pairs(self, mask: Mask, grid: PatchGrid) -> list[Links]:
        """Sequence positions: from where (1, G, S), what (1, G, T); units of one size."""
        _, sizes = mask.unit.unique_consecutive(return_counts=True)
        units = torch.arange(len(mask)).view(len(sizes), -1)
        return [Links(source_positions=units[None, :-1], target_positions=units[None, 1:])]

    def width(self, grid: PatchGrid) -> int:
        """Values of one token: its channels."""
        return grid.channels

    def values(self, images: Tensor, grid: PatchGrid) -> Tensor:
        """(B, C, height, width) to (B, tokens, C), in raster order."""
        return reduce(grid.patchify(images), "b n (c p) -> b n c", "mean", c=grid.channels)
