"""Pixel values as a target, raw or normalised per unit: what XTRA, AIM and MAE predict."""

import torch
from torch import Tensor

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.objective.links import Links
from xtra_toolkit.objective.mask import Mask
from xtra_toolkit.objective.target import Target


class PixelTarget(Target):
    """Base of targets that are pixels; a subclass says which position predicts which.

    Args:
        normalise: subtract the mean of a link's values and divide by their standard deviation
            (unbiased variance, eps 1e-6 inside the root), as XTRA, AIM and MAE do.
    """

    eps = 1e-6
    pixels = True

    def __init__(self, normalise: bool = True):
        super().__init__()
        self.normalises = normalise

    def links(self, mask: Mask, grid: PatchGrid) -> list[Links]:
        """The groups of predictions; ValueError where the mask cannot serve this target."""
        groups = self.pairs(mask, grid)
        for group in groups:
            if self.normalises and group.target_positions.shape[-1] * self.width(grid) < 2:
                raise ValueError(
                    f"{type(self).__name__}: one token of {grid} holds a single value, and one "
                    "value has no variance to normalise by; set normalise=False or predict "
                    "larger units"
                )
        return groups

    def pairs(self, mask: Mask, grid: PatchGrid) -> list[Links]:
        """Sources and targets, before any check."""
        raise NotImplementedError

    def width(self, grid: PatchGrid) -> int:
        """Values that the head puts out for one token."""
        return grid.values

    def values(self, images: Tensor, grid: PatchGrid) -> Tensor:
        """(B, C, height, width) to what is predicted, (B, N, V) in raster order."""
        return grid.patchify(images)

    def normalise(self, values: Tensor) -> Tensor:
        """The values of links, (B, G, T * V), as the loss compares them."""
        if not self.normalises:
            return values
        variance, mean = torch.var_mean(values, dim=-1, keepdim=True)
        return (values - mean) * (variance + self.eps).rsqrt()

    def restore(self, prediction: Tensor, like: Tensor) -> Tensor:
        """The inverse of ``normalise``: predictions as pixels, with the statistics of ``like``.

        Args:
            prediction: (..., T * V) as the loss compares it.
            like: (..., values), pixels whose mean and standard deviation it is given.
        """
        if not self.normalises:
            return prediction
        variance, mean = torch.var_mean(like, dim=-1, keepdim=True)
        return prediction * (variance + self.eps).sqrt() + mean
