"""Token-causal raster order: GPT's mask on patches (iGPT, ICML 2020; AIM without a prefix)."""

import torch

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.objective.mask import Mask, MaskFactory
from xtra_toolkit.registry import MASKS


@MASKS.register_module()
class TokenCausal(MaskFactory):
    """Steps 0, 1, 2 … in raster order: attend = k <= q.

    A token without pixels comes first: iGPT's start token, whose output predicts patch 0.
    """

    random = False

    def __call__(
        self, grid: PatchGrid, batch: int = 1, generator: torch.Generator | None = None
    ) -> Mask:
        at = torch.arange(grid.tokens + grid.extra)
        return Mask(order=at.roll(grid.extra), step=at)

    def for_features(self, grid: PatchGrid) -> Mask:
        """The mask is kept when probed."""
        return self(grid)
