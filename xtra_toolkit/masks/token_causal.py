"""Token-causal raster order: the mask of GPT on patches (iGPT, ICML 2020; AIM without a prefix)."""

import torch

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.objective.mask import Mask, MaskFactory
from xtra_toolkit.registry import MASKS


@MASKS.register_module()
class TokenCausal(MaskFactory):
    """Let each token attend to itself and to all before it in raster order: attend = k <= q.

    A token without pixels comes first. It is iGPT's start token, whose output predicts patch 0.
    """

    random = False

    def __call__(
        self, grid: PatchGrid, batch: int = 1, generator: torch.Generator | None = None
    ) -> Mask:
        position = torch.arange(grid.tokens + grid.extra)
        return Mask(order=position.roll(grid.extra), step=position)

    def for_features(self, grid: PatchGrid) -> Mask:
        """Return the same mask."""
        return self(grid)
