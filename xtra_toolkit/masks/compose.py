"""Masks of masks: another order of the units, a prefix that is given.

What composes: both take a fixed mask of units one after another (TokenCausal, BlockCausal, a
plugin's), and WithPrefix takes a fixed Reordered too. The rest is refused: in a mask whose units
share a step nothing comes before anything.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.masks.bidirectional import Bidirectional
from xtra_toolkit.masks.build import build_mask
from xtra_toolkit.masks.mask import Mask, draws
from xtra_toolkit.registry import MASKS, ORDERS


@MASKS.register_module()
class Reordered:
    """The units of a mask in another order; each sees itself and those before it.

    Args:
        mask: config of a fixed mask, or a factory: what the units are.
        order: config of an order, or one: ``(rows, cols, batch, generator)`` to (n,) or (batch, n)
            whole numbers, which unit of the rows × cols units comes when, numbered in raster
            order. ``random = True`` on it says that it draws; then the decoder must be told where
            a target lies (``positioned=True``) where orders differ between images.
    """

    def __init__(self, mask: dict | Callable[..., Mask], order: dict | Callable[..., Tensor]):
        self.mask, self.order = build_mask(mask), build_order(order)
        self.random = getattr(self.order, "random", False)

    def __call__(
        self, grid: PatchGrid, batch: int = 1, generator: torch.Generator | None = None
    ) -> Mask:
        name = type(self.mask).__name__
        rows, cols, units = in_raster_order(units_of(self.mask, grid), grid, name)
        g = draws(generator) if self.random else None
        order = self.order(rows, cols, batch, g)
        if not torch.equal(order.sort(-1).values.cpu(), torch.arange(len(units)).expand_as(order)):
            raise ValueError(
                f"{type(self.order).__name__} must name each of the {len(units)} units (rows × cols"
                f" = {rows} × {cols}) once; given: {order.flatten().tolist()[:12]}…"
            )
        sizes = torch.tensor([len(unit) for unit in units])
        if order.ndim == 1:
            picked = order.tolist()
            tokens = torch.cat([units[i] for i in picked]).to(order.device)
            sizes = sizes[picked]
        elif len(sizes.unique()) == 1:
            tokens = torch.stack(units).to(order.device)[order].flatten(1)
        else:
            raise ValueError(
                "an order for each image needs units of one size, for what is predicted together "
                f"is shared by the batch; {name} makes sizes {sizes.unique().tolist()}"
            )
        step = torch.arange(len(units)).repeat_interleave(sizes).to(order.device)
        return Mask(order=tokens, step=step, unit=step)

    def for_features(self, grid: PatchGrid) -> Mask:
        """Kept where it is fixed; full attention after random orders, as SAIM."""
        return Bidirectional()(grid) if self.random else self(grid)


@MASKS.register_module()
class WithPrefix:
    """The first units of a mask see each other in full and are given, as in AIM's prefix.

    ``WithPrefix(TokenCausal())`` is PrefixCausal.

    Args:
        mask: config of a fixed mask, or a factory.
        low, high: the prefix of each image is uniform over low to high units, both included.
            Default: all but one.
    """

    random = True

    def __init__(self, mask: dict | Callable[..., Mask], low: int = 1, high: int | None = None):
        self.mask, self.low, self.high = build_mask(mask), low, high

    def __call__(
        self, grid: PatchGrid, batch: int = 1, generator: torch.Generator | None = None
    ) -> Mask:
        low, high = self.bounds(grid)
        g = draws(generator)
        return self.of(grid, torch.randint(low, high + 1, (batch, 1), generator=g, device=g.device))

    def of(self, grid: PatchGrid, prefix: Tensor) -> Mask:
        """The mask of given prefix lengths in units, (B, 1)."""
        units = units_of(self.mask, grid)
        sizes = torch.tensor([len(tokens) for tokens in units])
        unit = torch.arange(len(units)).repeat_interleave(sizes).to(prefix.device)
        return Mask(
            order=torch.cat(units).to(prefix.device),
            step=(unit - prefix + 1).clamp(min=0),
            unit=unit,
            given=unit < prefix,
        )

    def for_features(self, grid: PatchGrid) -> Mask:
        """Full attention, as AIM."""
        return Bidirectional()(grid)

    def extremes(self, grid: PatchGrid) -> list[Mask]:
        """The shortest and the longest prefix, for the certificate."""
        return [self.of(grid, torch.tensor([[length]])) for length in self.bounds(grid)]

    def bounds(self, grid: PatchGrid) -> tuple[int, int]:
        """The shortest and the longest prefix on this grid, in units."""
        n = len(units_of(self.mask, grid))
        high = n - 1 if self.high is None else self.high
        if not 1 <= self.low <= high <= n - 1:
            raise ValueError(
                f"WithPrefix was given prefixes of {self.low} to {high} units; "
                f"{type(self.mask).__name__} makes {n} on {grid}, which allows 1 to {n - 1}"
            )
        return self.low, high


def units_of(factory: Callable[..., Mask], grid: PatchGrid) -> list[Tensor]:
    """Tokens of each unit of a fixed mask, which must come one after another, else ValueError."""
    name = type(factory).__name__
    if getattr(factory, "random", True):
        raise ValueError(f"{name} draws at random, and only a fixed mask can be composed")
    mask = factory(grid).check(grid, name)
    unit = torch.arange(len(mask)) if mask.unit is None else mask.unit
    _, sizes = unit.unique_consecutive(return_counts=True)
    tokens, steps = (field.split(sizes.tolist()) for field in (mask.order, mask.step))
    plain = all(v is None for v in (mask.shown, mask.given, mask.attend))
    alone = len(mask.step.unique()) == len(steps) and all(len(s.unique()) == 1 for s in steps)
    if not (plain and alone and mask.order.max() < grid.tokens):
        raise ValueError(
            f"{name} cannot be composed: that needs units one after another, a step for each, all "
            "with pixels, shown and to be predicted (TokenCausal, BlockCausal)"
        )
    return list(tokens)


def build_order(cfg: dict | Callable[..., Tensor]) -> Callable[..., Tensor]:
    """An order from its config, for instance ``dict(type='block_orders.Spiral')``, or itself."""
    if callable(cfg):
        return cfg
    args = dict(cfg)
    factory = ORDERS.get(args.pop("type", None) or "")
    if factory is None:
        known = ", ".join(sorted(ORDERS.module_dict)) or "none; the plugin block_orders has some"
        raise ValueError(f"unknown order {cfg!r}; known orders: {known}")
    try:
        return factory(**args)
    except TypeError as error:
        raise ValueError(f"order {cfg['type']!r} cannot be made of {args}: {error}") from error


def in_raster_order(
    units: list[Tensor], grid: PatchGrid, name: str
) -> tuple[int, int, list[Tensor]]:
    """Rows and columns that units make by their first tokens, and the units in raster order."""
    corner = sorted((divmod(int(unit.min()), grid.cols), i) for i, unit in enumerate(units))
    rows, cols = (sorted({place[axis] for place, _ in corner}) for axis in (0, 1))
    if [place for place, _ in corner] != [(row, col) for row in rows for col in cols]:
        raise ValueError(
            f"the units of {name} make no rows and columns on {grid}, so no order of them is known"
        )
    return len(rows), len(cols), [units[i] for _, i in corner]
