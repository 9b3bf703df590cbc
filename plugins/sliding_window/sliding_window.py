"""Sliding window: a token sees itself and the few before it (Longformer, arXiv 2004.05150)."""

import torch

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.masks import Mask, MaskFactory
from xtra_toolkit.registry import MASKS


@MASKS.register_module()
class SlidingWindow(MaskFactory):
    """Raster order; each token sees the last ``window`` tokens, its own included.

    attend = q - window < k <= q. This is no ordered partition (what a token saw, a later one does
    not see), so it is given as a predicate. Layers carry light further: through L of them a
    token is reached by the last L * (window - 1) + 1.

    Args:
        window: tokens that one token sees; a row of the grid above, and all between, is one more
            than the grid's columns.

    Raises:
        ValueError: a window that holds nothing, or a class token, which has no place in it.
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
        """The encoder keeps its window when probed."""
        return self(grid)
