"""Prefix-causal raster order: the mask of AIM (arXiv 2401.08541; apple/ml-aim at bd9e068)."""

import torch
from torch import Tensor

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.masks.bidirectional import Bidirectional
from xtra_toolkit.masks.mask import Mask, draws
from xtra_toolkit.registry import MASKS


@MASKS.register_module()
class PrefixCausal:
    """A prefix sees itself in full and is given; each later token sees all before it.

    attend = k < prefix or k <= q, in raster order.

    Args:
        low, high: the prefix of each image is uniform over low to high tokens, both included.
            Default: 1 to N - 1, as in the paper.
    """

    random = True

    def __init__(self, low: int = 1, high: int | None = None):
        self.low, self.high = low, high

    def __call__(
        self, grid: PatchGrid, batch: int = 1, generator: torch.Generator | None = None
    ) -> Mask:
        g = draws(generator)
        low, high = self.bounds(grid)
        return self.of(grid, torch.randint(low, high + 1, (batch, 1), generator=g, device=g.device))

    def of(self, grid: PatchGrid, prefix: Tensor) -> Mask:
        """The mask of given prefix lengths, (B, 1)."""
        raster = torch.arange(grid.tokens, device=prefix.device)
        return Mask(
            order=raster,
            step=(raster - prefix + 1).clamp(min=0),
            given=raster < prefix,
        )

    def for_features(self, grid: PatchGrid) -> Mask:
        """AIM probes bidirectionally."""
        return Bidirectional()(grid)

    def extremes(self, grid: PatchGrid) -> list[Mask]:
        """The shortest and the longest prefix, for the certificate."""
        return [self.of(grid, torch.tensor([[length]])) for length in self.bounds(grid)]

    def bounds(self, grid: PatchGrid) -> tuple[int, int]:
        """The shortest and the longest prefix on this grid."""
        grid.no_extra("PrefixCausal")
        low, high = self.low, grid.tokens - 1 if self.high is None else self.high
        if not 1 <= low <= high <= grid.tokens - 1:
            raise ValueError(
                f"PrefixCausal was given prefixes of {low} to {high} tokens; {grid} allows "
                f"1 to {grid.tokens - 1}, so that something is left to predict"
            )
        return low, high
