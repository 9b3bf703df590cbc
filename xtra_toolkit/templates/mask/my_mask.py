"""my_mask: strips of columns from left to right. Replace this by your mask and its source."""

import torch

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.masks import Mask, MaskFactory
from xtra_toolkit.registry import MASKS


@MASKS.register_module()
class MyMask(MaskFactory):
    """Put strips of columns in order. A token attends to its own strip and to all left of it.

    attend = strip(k) <= strip(q). The tokens of a strip are neighbours in the sequence.

    Args:
        width: Number of columns of a strip.
    """

    random = False  # True if it is drawn for each batch; then draw with `mask_rng(generator)`

    def __init__(self, width: int = 2):
        if width < 1:
            raise ValueError(f"width={width} was given to MyMask; it must be at least 1")
        self.width = width

    def __call__(
        self, grid: PatchGrid, batch: int = 1, generator: torch.Generator | None = None
    ) -> Mask:
        grid.no_extra("MyMask")  # no class token
        raster = torch.arange(grid.tokens).view(grid.rows, grid.cols)
        order = raster.T.flatten()  # the token at each position of the sequence: column by column
        strip = order % grid.cols // self.width
        return Mask(
            order=order,
            step=strip,  # position q may attend to k where step[k] <= step[q]
            unit=strip,  # the tokens of a unit are predicted together
        )

    def for_features(self, grid: PatchGrid) -> Mask:
        """Return the mask under which the encoder is probed: the same."""
        return self(grid)
