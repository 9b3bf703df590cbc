"""Token-causal raster order: GPT's mask on patches (iGPT, ICML 2020; AIM without a prefix)."""

import torch

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.masks.mask import Mask
from xtra_toolkit.registry import MASKS


@MASKS.register_module()
class TokenCausal:
    """Steps 0, 1, 2 … in raster order: attend = k <= q."""

    random = False

    def __call__(
        self, grid: PatchGrid, batch: int = 1, generator: torch.Generator | None = None
    ) -> Mask:
        grid.no_extra("TokenCausal")
        raster = torch.arange(grid.tokens)
        return Mask(order=raster, step=raster)

    def for_features(self, grid: PatchGrid) -> Mask:
        """The mask is kept when probed."""
        return self(grid)
