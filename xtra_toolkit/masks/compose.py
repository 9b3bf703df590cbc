"""Masks of masks: another order of the units, a prefix that is given.

What composes: both take a fixed mask of units one after another (TokenCausal, BlockCausal, a
plugin's), and WithPrefix takes a fixed Reordered too. The rest is refused: in a mask whose units
share a step nothing comes before anything.
"""

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.masks.bidirectional import Bidirectional
from xtra_toolkit.masks.build import build_mask
from xtra_toolkit.masks.rng import fixed, mask_rng
from xtra_toolkit.masks.unit_order import UnitOrder, build_order
from xtra_toolkit.objective.mask import Mask, MaskFactory
from xtra_toolkit.registry import MASKS


@MASKS.register_module()
class Reordered(MaskFactory):
    """The units of a mask in another order; each sees itself and those before it.

    Args:
        mask: config of a fixed mask, or a factory: what the units are.
        order: config of an order, or one: ``(rows, cols, batch, generator)`` to (n,) or (batch, n)
            whole numbers, which unit of the rows × cols units comes when, numbered in raster
            order. ``random = False`` on it says that it never draws. Where orders differ between
            images the source must be told where its target lies (``positioned=True``).
    """

    def __init__(self, mask: dict | MaskFactory, order: dict | UnitOrder | Callable[..., Tensor]):
        self.mask, self.order = build_mask(mask), build_order(order)
        self.random = self.order.random

    def __call__(
        self, grid: PatchGrid, batch: int = 1, generator: torch.Generator | None = None
    ) -> Mask:
        rows, cols, units = in_raster_order(self.mask, grid)
        order = self.order(rows, cols, batch, fixed(generator) if self.random else None)
        once = (order.sort(-1).values == torch.arange(len(units), device=order.device)).all()
        sentence = (
            f"{type(self.order).__name__} must name each of the {len(units)} units (rows × cols = "
            f"{rows} × {cols}) once"
        )
        if generator is not None:
            torch._assert_async(once, sentence)  # in a step no device is asked
        elif not once:
            raise ValueError(f"{sentence}; given: {order.flatten().tolist()[:12]}…")
        sizes = {len(unit) for unit in units}
        if len(sizes) == 1:
            tokens = table_of(self.mask, grid, order.device)[order].flatten(-2)
            step = torch.arange(len(units), device=order.device).repeat_interleave(sizes.pop())
        elif order.ndim == 1:
            picked = [units[i] for i in order.tolist()]
            tokens = torch.cat(picked)
            step = torch.tensor([i for i, unit in enumerate(picked) for _ in unit])
        else:
            raise ValueError(
                "an order for each image needs units of one size, for what is predicted together "
                f"is shared by the batch; {type(self.mask).__name__} makes sizes {sorted(sizes)}"
            )
        return Mask(order=tokens, step=step, unit=step)

    def for_features(self, grid: PatchGrid) -> Mask:
        """Kept where it is fixed; full attention after random orders, as SAIM."""
        return Bidirectional()(grid) if self.random else self(grid)


@MASKS.register_module()
class WithPrefix(MaskFactory):
    """The first units of a mask see each other in full and are given, as in AIM's prefix.

    :class:`PrefixCausal` is this of TokenCausal.

    Args:
        mask: config of a fixed mask, or a factory.
        low, high: the prefix of each image is uniform over low to high units, both included.
            Default: all but one.
    """

    random = True

    def __init__(self, mask: dict | MaskFactory, low: int = 1, high: int | None = None):
        self.mask, self.low, self.high = build_mask(mask), low, high

    def __call__(
        self, grid: PatchGrid, batch: int = 1, generator: torch.Generator | None = None
    ) -> Mask:
        low, high = self.bounds(grid)
        return self.of(grid, mask_rng(generator).randint(low, high + 1, (batch, 1)))

    def of(self, grid: PatchGrid, prefix: Tensor) -> Mask:
        """The mask of given prefix lengths in units, (B, 1)."""
        order, unit = sequence_of(self.mask, grid, prefix.device)
        return Mask(
            order=order,
            step=(unit - prefix + 1).clamp(min=0),
            unit=unit,
            context=unit < prefix,
        )

    def for_features(self, grid: PatchGrid) -> Mask:
        """Full attention, as AIM."""
        return Bidirectional()(grid)

    def with_context(self, grid: PatchGrid, units: int) -> Mask:
        """Make the mask of a prefix of ``units`` units, or raise a ValueError."""
        low, high = self.bounds(grid)
        if not low <= units <= high:
            raise ValueError(
                f"{units} units were given, and the mask was trained on prefixes of {low} to "
                f"{high} units"
            )
        return self.of(grid, torch.tensor([[units]]))

    def extremes(self, grid: PatchGrid) -> list[Mask]:
        """The shortest and the longest prefix, for the certificate."""
        return [self.of(grid, torch.tensor([[length]])) for length in self.bounds(grid)]

    def bounds(self, grid: PatchGrid) -> tuple[int, int]:
        """The shortest and the longest prefix on this grid, in units."""
        name, n = type(self).__name__, len(units_of(self.mask, grid))
        high = n - 1 if self.high is None else self.high
        if not 1 <= self.low <= high <= n - 1:
            raise ValueError(
                f"{name} was given prefixes of {self.low} to {high} units; "
                f"{type(self.mask).__name__} makes {n} on {grid}, which allows 1 to {n - 1}, so "
                "that something is left to predict"
            )
        return self.low, high


@lru_cache(maxsize=64)
def units_of(factory: MaskFactory, grid: PatchGrid) -> tuple[Tensor, ...]:
    """Tokens of each unit of a fixed mask, which must come one after another, else ValueError."""
    name = type(factory).__name__
    if factory.random:
        raise ValueError(f"{name} draws at random, and only a fixed mask can be composed")
    with torch.device("cpu"):
        mask = factory(grid).check(grid, name)
        unit = torch.arange(len(mask)) if mask.unit is None else mask.unit
    _, sizes = unit.unique_consecutive(return_counts=True)
    tokens, steps = (field.split(sizes.tolist()) for field in (mask.order, mask.step))
    plain = all(v is None for v in (mask.visible, mask.context, mask.attend))
    alone = len(mask.step.unique()) == len(steps) and all(len(s.unique()) == 1 for s in steps)
    if not (plain and alone and mask.order.max() < grid.tokens):
        raise ValueError(
            f"{name} cannot be composed: that needs units one after another, a step for each, all "
            "with pixels (with_cls_token=False), shown and to be predicted (TokenCausal, "
            "BlockCausal)"
        )
    return tokens


@lru_cache(maxsize=64)
def in_raster_order(factory: MaskFactory, grid: PatchGrid) -> tuple[int, int, tuple[Tensor, ...]]:
    """Rows and columns that units make by their first tokens, and the units in raster order."""
    units = units_of(factory, grid)
    corner = sorted((divmod(int(unit.min()), grid.cols), i) for i, unit in enumerate(units))
    rows, cols = (sorted({place[axis] for place, _ in corner}) for axis in (0, 1))
    if [place for place, _ in corner] != [(row, col) for row in rows for col in cols]:
        raise ValueError(
            f"the units of {type(factory).__name__} make no rows and columns on {grid}, so no "
            "order of them is known"
        )
    return len(rows), len(cols), tuple(units[i] for _, i in corner)


@lru_cache(maxsize=64)
def sequence_of(
    factory: MaskFactory, grid: PatchGrid, device: torch.device
) -> tuple[Tensor, Tensor]:
    """(N,) tokens of the units one after another, and (N,) whose number each is."""
    units = units_of(factory, grid)
    unit = torch.tensor([i for i, tokens in enumerate(units) for _ in tokens], device=device)
    return torch.cat(units).to(device), unit


@lru_cache(maxsize=64)
def table_of(factory: MaskFactory, grid: PatchGrid, device: torch.device) -> Tensor:
    """(units, T) tokens of units of one size, in raster order."""
    return torch.stack(in_raster_order(factory, grid)[2]).to(device)
