"""Orders of units for ``Reordered``: spirals, checkerboard, Hilbert, random, annealed, by saliency.

Each order is called with (rows, cols, batch, generator), the units as a grid, and returns (units,)
or (batch, units) integers: the unit, numbered in raster order, that comes at each place.
"""

from pathlib import Path

import numpy as np
import torch
from mmengine.logging import MessageHub
from torch import Tensor

from xtra_toolkit.masks import UnitOrder, mask_rng
from xtra_toolkit.registry import ORDERS


@ORDERS.register_module()
class Spiral(UnitOrder):
    """Go from the top left corner along the edges inwards, or from the centre outwards.

    Args:
        outwards: Whether to begin in the centre.
    """

    random = False

    def __init__(self, outwards: bool = False):
        self.outwards = outwards

    def __call__(self, rows: int, cols: int, batch: int = 1, generator: object = None) -> Tensor:
        remaining, path = torch.arange(rows * cols).view(rows, cols), []
        while remaining.numel():
            path.append(remaining[0])
            remaining = remaining[1:].T.flip(0)  # rotate by a quarter turn
        order = torch.cat(path)
        return order.flip(0) if self.outwards else order


@ORDERS.register_module()
class Checkerboard(UnitOrder):
    """Take the units of one colour of a checkerboard, and then those of the other.

    The colour of the top left corner comes first. Units of a colour are in raster order, so that
    those of the second colour come when all their neighbours are known.
    """

    random = False

    def __call__(self, rows: int, cols: int, batch: int = 1, generator: object = None) -> Tensor:
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(cols), indexing="ij")
        return ((y + x) % 2).flatten().argsort(stable=True)


@ORDERS.register_module()
class Hilbert(UnitOrder):
    """Follow Hilbert's curve: neighbours in the order are neighbours in the image.

    Raises:
        ValueError: The grid of units is not a square whose side is a power of two.
    """

    random = False

    def __call__(self, rows: int, cols: int, batch: int = 1, generator: object = None) -> Tensor:
        if rows != cols or rows & (rows - 1):
            raise ValueError(
                f"Hilbert's curve needs a square of 1, 2, 4, 8, 16 ... units a side; given: "
                f"{rows}×{cols} units"
            )
        rank = torch.zeros(1, 1, dtype=torch.long)  # at which place of the order each unit comes
        while len(rank) < rows:
            n = rank.numel()
            top = torch.cat([rank.T, rank.flip(0, 1).T + 3 * n], 1)
            rank = torch.cat([top, torch.cat([rank + n, rank + 2 * n], 1)])
        return rank.flatten().argsort()


@ORDERS.register_module()
class CentreOut(UnitOrder):
    """Sort by distance from the centre, the nearest first (SemAIM); ties are in raster order."""

    random = False

    def __call__(self, rows: int, cols: int, batch: int = 1, generator: object = None) -> Tensor:
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(cols), indexing="ij")
        # the square of twice the distance is an integer, so equal distances compare equal
        distance = (2 * y - rows + 1) ** 2 + (2 * x - cols + 1) ** 2
        return distance.flatten().argsort(stable=True)


@ORDERS.register_module()
class RandomOrder(UnitOrder):
    """Draw a random order, one for the batch or one for each image (SAIM, RandSAC).

    With 2×2 units, that is ``BlockCausal`` with blocks of half the grid, the units are D-iGPT's
    quadrants (arXiv 2312.02147).

    Args:
        per_image: Whether each image has its own order. The decoder must then be told which
            position it predicts: ``NextBlock(positioned=True)``.
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
class AnnealedOrder(RandomOrder):
    """Draw a random order for each image less and less often, and take raster order otherwise.

    The probability of a random order is 1 until the share ``start`` of the training, and falls
    linearly to 0 at the share ``end`` (RAR, arXiv 2411.00776; bytedance/1d-tokenizer at 70f17bb).
    The step comes from MMEngine's MessageHub, so an interrupted run goes on as it would have. If
    ``train_cfg.max_iters`` shortens the training, it shortens the annealing too. Evaluation is in
    raster order. Without a training the probability is 1.

    The target must tell the model which position it predicts: ``NextToken(positioned=True)``.

    Args:
        start, end: Shares of the training from 0 to 1. Default: RAR's epochs 200 and 300 of 400.

    Raises:
        ValueError: The shares are out of range, or ``end`` is not after ``start``.
    """

    def __init__(self, start: float = 0.5, end: float = 0.75):
        super().__init__(per_image=True)
        if not 0 <= start < end <= 1:
            raise ValueError(
                f"AnnealedOrder was given start={start} and end={end}; both are shares of the "
                "training from 0 to 1, and end must be larger than start"
            )
        self.start, self.end = start, end

    def __call__(
        self, rows: int, cols: int, batch: int = 1, generator: torch.Generator | None = None
    ) -> Tensor:
        chosen = mask_rng(generator).rand(batch, 1) < self.probability()
        drawn = super().__call__(rows, cols, batch, generator)
        return drawn.where(chosen, torch.arange(rows * cols, device=drawn.device))

    def in_evaluation(self, rows: int, cols: int, batch: int) -> Tensor:
        """Return raster order."""
        return torch.arange(rows * cols).expand(batch, -1)

    def probability(self) -> float:
        """Return the probability of a random order in the present step of the training."""
        hub = MessageHub.get_current_instance()
        step, steps = (hub.get_info(name, 0) for name in ("iter", "max_iters"))
        share = step / steps if steps else 0.0
        return min(max((self.end - share) / (self.end - self.start), 0.0), 1.0)


@ORDERS.register_module()
class BySaliency(UnitOrder):
    """Put the most salient units first, by a given map that is the same for all images.

    Args:
        map: A .npy file of shape (rows, cols), one value for each unit; larger values come earlier.
            An example is the mean attention of a trained encoder over your images.

    Raises:
        ValueError: There is no such file, or its array has another shape than the units.
    """

    random = False

    def __init__(self, map: str):
        if not Path(map).is_file():
            raise ValueError(
                f"BySaliency found no file at {str(Path(map).resolve())!r}; it must be a .npy "
                "array of shape (rows, cols), one value for each unit"
            )
        self.saliency = torch.from_numpy(np.load(map))

    def __call__(self, rows: int, cols: int, batch: int = 1, generator: object = None) -> Tensor:
        if self.saliency.shape != (rows, cols):
            raise ValueError(
                f"BySaliency has a map of {tuple(self.saliency.shape)}, and there are {rows}×{cols}"
                " units"
            )
        return self.saliency.flatten().argsort(descending=True, stable=True)
