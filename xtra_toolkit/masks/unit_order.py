"""Define orders of the units of a mask, which ``Reordered`` takes."""

from collections.abc import Callable

import torch
from torch import Tensor

from xtra_toolkit.masks.rng import fixed
from xtra_toolkit.registry import ORDERS


class UnitOrder:
    """Define an order of units. This is the base class of all of them.

    A plain function is an order too; it counts as random.
    """

    random: bool = True
    """Set this to False if the order never draws."""

    def __call__(
        self, rows: int, cols: int, batch: int, generator: torch.Generator | None
    ) -> Tensor:
        """Return (n,) or (batch, n) integers: the unit, in raster order, that comes at each place.

        Args:
            rows, cols: The units as a grid; n is ``rows * cols``.
            batch: Number of images.
            generator: What to draw from; None for an order that does not draw.
        """
        raise NotImplementedError

    def in_evaluation(self, rows: int, cols: int, batch: int) -> Tensor:
        """Return the order of evaluation. The default is the draw of a fixed seed."""
        return self(rows, cols, batch, fixed(None) if self.random else None)


class _FunctionOrder(UnitOrder):
    def __init__(self, function: Callable[..., Tensor]):
        self.function = function

    def __call__(
        self, rows: int, cols: int, batch: int, generator: torch.Generator | None
    ) -> Tensor:
        return self.function(rows, cols, batch, generator)


def build_order(cfg: dict | UnitOrder | Callable[..., Tensor]) -> UnitOrder:
    """Build an order from its config, for instance ``dict(type='xtra_toolkit.Spiral')``.

    An order is returned as it is, and a function becomes an order.
    """
    if isinstance(cfg, UnitOrder):
        return cfg
    if callable(cfg):
        return _FunctionOrder(cfg)
    args = dict(cfg)
    factory = ORDERS.get(args.pop("type", None) or "")
    if factory is None:
        known = ", ".join(sorted(ORDERS.module_dict)) or "none; the plugin block_orders has some"
        raise ValueError(f"unknown order {cfg!r}; known orders: {known}")
    try:
        return build_order(factory(**args))
    except TypeError as error:
        raise ValueError(f"order {cfg['type']!r} cannot be made of {args}: {error}") from error
