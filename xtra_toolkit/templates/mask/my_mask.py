"""my_mask: strips of columns, from left to right. Put your idea here, and its source."""

import torch

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.masks import Mask, MaskFactory
from xtra_toolkit.registry import MASKS


@MASKS.register_module()
class MyMask(MaskFactory):
    """Strips of columns; a token sees its own strip and all to the left of it.

    attend = strip(k) <= strip(q), the tokens of a strip next to each other in the sequence.

    Args:
        width: columns of a strip.
    """

    random = False  # True: drawn anew for each batch, all of it by `mask_rng(generator)`

    def __init__(self, width: int = 2):
        if width < 1:
            raise ValueError(f"width={width} was given to MyMask; it must be at least 1")
        self.width = width

    def __call__(
        self, grid: PatchGrid, batch: int = 1, generator: torch.Generator | None = None
    ) -> Mask:
        grid.no_extra("MyMask")  # no class token
        raster = torch.arange(grid.tokens).view(grid.rows, grid.cols)
        order = raster.T.flatten()  # which token stands at each position: column by column
        strip = order % grid.cols // self.width
        return Mask(
            order=order,
            step=strip,  # position q may attend to k where step[k] <= step[q]
            unit=strip,  # what is predicted together
        )

    def for_features(self, grid: PatchGrid) -> Mask:
        """What the encoder sees when it is probed: the same."""
        return self(grid)
