"""Bidirectional: every token attends to all tokens (the encoders of BERT and MAE)."""

import torch

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.objective.mask import Mask, MaskFactory
from xtra_toolkit.registry import MASKS


@MASKS.register_module()
class Bidirectional(MaskFactory):
    """Give all tokens the same step: attend = True. A class token comes first."""

    random = False

    def __call__(
        self, grid: PatchGrid, batch: int = 1, generator: torch.Generator | None = None
    ) -> Mask:
        order = torch.arange(grid.tokens + grid.extra).roll(grid.extra)
        return Mask(order=order, step=torch.zeros_like(order))

    def for_features(self, grid: PatchGrid) -> Mask:
        """Return the same mask."""
        return self(grid)
