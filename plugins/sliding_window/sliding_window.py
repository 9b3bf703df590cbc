"""Sliding window: a token attends to itself and to the last few before it.

Longformer, arXiv 2004.05150.
"""

import torch

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.masks import Mask, MaskFactory
from xtra_toolkit.registry import MASKS


@MASKS.register_module()
class SlidingWindow(MaskFactory):
    """Attend, in raster order, to the last ``window`` tokens, including the token itself.

    attend = q - window < k <= q. This is no ordered partition, because a later token does not
    attend to everything that an earlier one attends to; so the rule is given as a predicate.
    Stacked layers reach further: L layers reach the last L * (window - 1) + 1 tokens.

    Args:
        window: Number of tokens that a token attends to. To reach the token above it, the window
            must hold one more token than the grid has columns.

    Raises:
        ValueError: The window is smaller than 1, or the grid has a class token, which this mask
            does not support.
    """

    random = False

    def __init__(self, window: int):
        if window < 1:
            raise ValueError(
                f"SlidingWindow was given window={window}; it must be at least 1, the token itself"
            )
        self.window = window

    def __call__(
        self, grid: PatchGrid, batch: int = 1, generator: torch.Generator | None = None
    ) -> Mask:
        grid.no_extra("SlidingWindow")
        raster = torch.arange(grid.tokens)
        return Mask(raster, raster, attend=lambda q, k: (k <= q) & (k > q - self.window))

    def for_features(self, grid: PatchGrid) -> Mask:
        """Return the same mask: the encoder keeps its window when it is probed."""
        return self(grid)
