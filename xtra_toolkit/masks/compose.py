"""Make a mask of another mask: put its units in another order, or make the first ones context.

Both take a fixed mask whose units come one after another (TokenCausal, BlockCausal, one of a
plugin); WithPrefix also takes a fixed Reordered. Other masks are refused, since units that share a
step have no order.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.masks.bidirectional import Bidirectional
from xtra_toolkit.masks.build import build_mask
from xtra_toolkit.masks.rng import mask_rng
from xtra_toolkit.masks.unit_order import UnitOrder, build_order
from xtra_toolkit.masks.units import raster_units, unit_sequence, unit_table, units_of
from xtra_toolkit.objective.mask import Mask, MaskFactory
from xtra_toolkit.registry import MASKS


@MASKS.register_module()
class Reordered(MaskFactory):
    """Put the units of a mask in another order. Each attends to itself and to those before it.

    Args:
        mask: Config of a fixed mask, or a factory. It defines the units.
        order: Config of an order, or an order: a :class:`UnitOrder` or a function
            ``(rows, cols, batch, generator)`` that returns (n,) or (batch, n) integers, the unit
            that comes at each place. The n = rows × cols units are numbered in raster order. If
            orders differ between images, the target must tell each source the position of its
            target (``positioned=True``).
    """

    def __init__(self, mask: dict | MaskFactory, order: dict | UnitOrder | Callable[..., Tensor]):
        self.mask, self.order = build_mask(mask), build_order(order)
        self.random = self.order.random

    def __call__(
        self, grid: PatchGrid, batch: int = 1, generator: torch.Generator | None = None
    ) -> Mask:
        rows, cols, units = raster_units(self.mask, grid)
        if generator is None:
            order = self.order.in_evaluation(rows, cols, batch)
        else:
            order = self.order(rows, cols, batch, generator if self.random else None)
        valid = (order.sort(-1).values == torch.arange(len(units), device=order.device)).all()
        message = (
            f"{type(self.order).__name__} must name each of the {len(units)} units (rows × cols = "
            f"{rows} × {cols}) once"
        )
        if generator is not None:
            torch._assert_async(valid, message)  # without a read from the device in a step
        elif not valid:
            raise ValueError(f"{message}; given: {order.flatten().tolist()[:12]}…")
        sizes = {len(unit) for unit in units}
        if len(sizes) == 1:
            tokens = unit_table(self.mask, grid, order.device)[order].flatten(-2)
            step = torch.arange(len(units), device=order.device).repeat_interleave(sizes.pop())
        elif order.ndim == 1:
            ordered = [units[i] for i in order.tolist()]
            tokens = torch.cat(ordered)
            step = torch.tensor([i for i, unit in enumerate(ordered) for _ in unit])
        else:
            raise ValueError(
                "an order for each image needs units of one size, since the batch shares what is "
                f"predicted together; {type(self.mask).__name__} makes sizes {sorted(sizes)}"
            )
        return Mask(order=tokens, step=step, unit=step)

    def for_features(self, grid: PatchGrid) -> Mask:
        """Return the same mask if it is fixed, else full attention, as in SAIM."""
        return Bidirectional()(grid) if self.random else self(grid)


@MASKS.register_module()
class WithPrefix(MaskFactory):
    """Make the first units of a mask context that attends to itself in full, as AIM's prefix.

    :class:`PrefixCausal` is this mask around TokenCausal.

    Args:
        mask: Config of a fixed mask, or a factory.
        low, high: The length of each image's prefix is drawn uniformly from ``low`` to ``high``
            units, both included. Default of ``high``: all units but one.
    """

    random = True

    def __init__(self, mask: dict | MaskFactory, low: int = 1, high: int | None = None):
        self.mask, self.low, self.high = build_mask(mask), low, high

    def __call__(
        self, grid: PatchGrid, batch: int = 1, generator: torch.Generator | None = None
    ) -> Mask:
        low, high = self.bounds(grid)
        return self.with_prefix(grid, mask_rng(generator).randint(low, high + 1, (batch, 1)))

    def with_prefix(self, grid: PatchGrid, prefix: Tensor) -> Mask:
        """Make the mask of given prefix lengths in units, (B, 1)."""
        order, unit = unit_sequence(self.mask, grid, prefix.device)
        return Mask(
            order=order,
            step=(unit - prefix + 1).clamp(min=0),
            unit=unit,
            context=unit < prefix,
        )

    def for_features(self, grid: PatchGrid) -> Mask:
        """Return full attention, as AIM does when it is probed."""
        return Bidirectional()(grid)

    def with_context(self, grid: PatchGrid, units: int) -> Mask:
        """Make the mask of a prefix of ``units`` units, or raise a ValueError."""
        low, high = self.bounds(grid)
        if not low <= units <= high:
            raise ValueError(
                f"{units} units were given, and the mask was trained on prefixes of {low} to "
                f"{high} units"
            )
        return self.with_prefix(grid, torch.tensor([[units]]))

    def extremes(self, grid: PatchGrid) -> list[Mask]:
        """Return the masks of the shortest and of the longest prefix."""
        return [self.with_prefix(grid, torch.tensor([[length]])) for length in self.bounds(grid)]

    def bounds(self, grid: PatchGrid) -> tuple[int, int]:
        """Return the shortest and the longest prefix on this grid, in units.

        Raises:
            ValueError: ``low`` and ``high`` do not fit the number of units.
        """
        name, n = type(self).__name__, len(units_of(self.mask, grid))
        high = n - 1 if self.high is None else self.high
        if not 1 <= self.low <= high <= n - 1:
            raise ValueError(
                f"{name} was given prefixes of {self.low} to {high} units; "
                f"{type(self.mask).__name__} makes {n} on {grid}, which allows 1 to {n - 1}, so "
                "that something is left to predict"
            )
        return self.low, high
