"""Predict pixel values, raw or normalised per unit, as XTRA, AIM and MAE do."""

import torch
from torch import Tensor

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.objective.links import Links
from xtra_toolkit.objective.mask import Mask
from xtra_toolkit.objective.target import Target


class PixelTarget(Target):
    """Predict pixels. A subclass implements :meth:`pairs`.

    Args:
        normalise: Whether the mean of the values of a link is subtracted and they are divided by
            their standard deviation (unbiased variance, eps 1e-6 inside the root), as in XTRA, AIM
            and MAE.
    """

    eps = 1e-6
    pixels = True

    def __init__(self, normalise: bool = True):
        super().__init__()
        self.normalises = normalise

    def links(self, mask: Mask, grid: PatchGrid) -> list[Links]:
        """Return the groups of predictions.

        Raises:
            ValueError: The mask cannot serve this target.
        """
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
        """Return the links, which :meth:`links` then checks."""
        raise NotImplementedError

    def width(self, grid: PatchGrid) -> int:
        """Return how many values the head predicts for one token."""
        return grid.values

    def values(self, images: Tensor, grid: PatchGrid) -> Tensor:
        """Cut images (B, C, height, width) into tokens (B, N, V) in raster order."""
        return grid.patchify(images)

    def normalise(self, values: Tensor) -> Tensor:
        """Return the values of links, (B, G, T * V), as the loss compares them."""
        if not self.normalises:
            return values
        variance, mean = torch.var_mean(values, dim=-1, keepdim=True)
        return (values - mean) * (variance + self.eps).rsqrt()

    def restore(self, prediction: Tensor, like: Tensor) -> Tensor:
        """Invert :meth:`normalise`: return predictions as pixels, with the statistics of ``like``.

        Args:
            prediction: (..., T * V) as the loss compares it.
            like: (..., values) pixels whose mean and standard deviation are used.
        """
        if not self.normalises:
            return prediction
        variance, mean = torch.var_mean(like, dim=-1, keepdim=True)
        return prediction * (variance + self.eps).sqrt() + mean
