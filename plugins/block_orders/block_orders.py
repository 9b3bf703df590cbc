"""Orders of units for ``Reordered``: spiral, Hilbert, centre-out, quadrants, random, by saliency.

Each is called with (rows, cols, batch, generator) of the units and returns (units,) or
(batch, units) whole numbers: which unit comes when, numbered in raster order.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from xtra_toolkit.masks import UnitOrder, mask_rng
from xtra_toolkit.registry import ORDERS


@ORDERS.register_module()
class Spiral(UnitOrder):
    """From the top left corner along the edge, inwards; or from the centre outwards.

    Args:
        outwards: begin in the centre.
    """

    random = False

    def __init__(self, outwards: bool = False):
        self.outwards = outwards

    def __call__(self, rows: int, cols: int, batch: int = 1, generator: object = None) -> Tensor:
        left, path = torch.arange(rows * cols).view(rows, cols), []
        while left.numel():
            path.append(left[0])
            left = left[1:].T.flip(0)  # what is left, a quarter turned
        order = torch.cat(path)
        return order.flip(0) if self.outwards else order


@ORDERS.register_module()
class Hilbert(UnitOrder):
    """Hilbert's curve: neighbours in the order are neighbours on the image.

    Raises:
        ValueError: a grid of units that is no square with a power of two a side.
    """

    random = False

    def __call__(self, rows: int, cols: int, batch: int = 1, generator: object = None) -> Tensor:
        if rows != cols or rows & (rows - 1):
            raise ValueError(
                f"Hilbert's curve fills squares of 2, 4, 8, 16 ... units a side; given: "
                f"{rows}×{cols} units"
            )
        curve = torch.zeros(1, 1, dtype=torch.long)  # when each place is visited
        while len(curve) < rows:
            n = curve.numel()
            first, last = curve.T, curve.flip(0, 1).T + 3 * n
            curve = torch.cat(
                [torch.cat([first, last], 1), torch.cat([curve + n, curve + 2 * n], 1)]
            )
        return curve.flatten().argsort()


@ORDERS.register_module()
class CentreOut(UnitOrder):
    """By distance from the centre, the nearest first (SemAIM); ties in raster order."""

    random = False

    def __call__(self, rows: int, cols: int, batch: int = 1, generator: object = None) -> Tensor:
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(cols), indexing="ij")
        # twice the distance, squared: whole numbers, so that ties are ties
        far = (2 * y - rows + 1) ** 2 + (2 * x - cols + 1) ** 2
        return far.flatten().argsort(stable=True)


@ORDERS.register_module()
class RandomOrder(UnitOrder):
    """A random order, one for the batch or one for each image (SAIM, RandSAC).

    With 2×2 units, as of ``BlockCausal`` with blocks of half the grid, these are D-iGPT's
    quadrants (arXiv 2312.02147).

    Args:
        per_image: orders differ between images; then the target must be told to the source:
            ``NextBlock(positioned=True)``.
    """

    random = True

    def __init__(self, per_image: bool = True):
        self.per_image = per_image

    def __call__(
        self, rows: int, cols: int, batch: int = 1, generator: torch.Generator | None = None
    ) -> Tensor:
        g, units = mask_rng(generator), rows * cols
        noise = g.rand(batch, units) if self.per_image else g.shared.rand(units)
        return noise.argsort(dim=-1, stable=True)


@ORDERS.register_module()
class BySaliency(UnitOrder):
    """The most salient units first, by a map that you supply, the same for all images.

    Args:
        map: a .npy file of shape (rows, cols) of the units, larger means earlier; for instance
            the mean attention of a trained encoder over your images.

    Raises:
        ValueError: the file is absent, or of another shape than the units.
    """

    random = False

    def __init__(self, map: str):
        if not Path(map).is_file():
            raise ValueError(
                f"BySaliency found no file at {str(Path(map).resolve())!r}; it must be a .npy "
                "array of (rows, cols) of the units"
            )
        self.saliency = torch.from_numpy(np.load(map))

    def __call__(self, rows: int, cols: int, batch: int = 1, generator: object = None) -> Tensor:
        if self.saliency.shape != (rows, cols):
            raise ValueError(
                f"BySaliency has a map of {tuple(self.saliency.shape)}, and there are {rows}×{cols}"
                " units"
            )
        return self.saliency.flatten().argsort(descending=True, stable=True)
