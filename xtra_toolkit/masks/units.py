"""Find the units of a fixed mask, one after another or as a grid of their own."""

from functools import lru_cache

import torch
from torch import Tensor

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.objective.mask import MaskFactory


@lru_cache(maxsize=64)
def units_of(factory: MaskFactory, grid: PatchGrid) -> tuple[Tensor, ...]:
    """Return the tokens of each unit of a fixed mask, in sequence order.

    Raises:
        ValueError: The mask is random, or its units do not come one after another.
    """
    name = type(factory).__name__
    if factory.random:
        raise ValueError(f"{name} draws at random, but only a fixed mask can be composed")
    with torch.device("cpu"):
        mask = factory(grid).check(grid, name)
        unit = torch.arange(len(mask)) if mask.unit is None else mask.unit
    _, sizes = unit.unique_consecutive(return_counts=True)
    tokens, steps = (field.split(sizes.tolist()) for field in (mask.order, mask.step))
    plain = all(v is None for v in (mask.visible, mask.context, mask.attend))
    plain = plain and not mask.own_decoder
    ordered = len(mask.step.unique()) == len(steps) and all(len(s.unique()) == 1 for s in steps)
    if not (plain and ordered and mask.order.max() < grid.tokens):
        raise ValueError(
            f"{name} cannot be composed: that needs units one after another, each with a step of "
            "its own, whose tokens all have pixels (with_cls_token=False), are visible and are no "
            "context (TokenCausal, BlockCausal)"
        )
    return tokens


@lru_cache(maxsize=64)
def raster_units(factory: MaskFactory, grid: PatchGrid) -> tuple[int, int, tuple[Tensor, ...]]:
    """Return the numbers of rows and columns that the units form, and the units in raster order.

    The position of a unit is that of its first token in raster order.

    Raises:
        ValueError: The units form no rows and columns.
    """
    units = units_of(factory, grid)
    corners = sorted((divmod(int(unit.min()), grid.cols), i) for i, unit in enumerate(units))
    rows, cols = (sorted({corner[axis] for corner, _ in corners}) for axis in (0, 1))
    if [corner for corner, _ in corners] != [(row, col) for row in rows for col in cols]:
        raise ValueError(
            f"the units of {type(factory).__name__} form no rows and columns on {grid}, so they "
            "cannot be reordered"
        )
    return len(rows), len(cols), tuple(units[i] for _, i in corners)


@lru_cache(maxsize=64)
def unit_sequence(
    factory: MaskFactory, grid: PatchGrid, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return (N,) tokens of the units one after another, and (N,) the unit of each position."""
    units = units_of(factory, grid)
    unit = torch.tensor([i for i, tokens in enumerate(units) for _ in tokens], device=device)
    return torch.cat(units).to(device), unit


@lru_cache(maxsize=64)
def unit_table(factory: MaskFactory, grid: PatchGrid, device: torch.device) -> Tensor:
    """Return (units, T) tokens of units of one size, in raster order."""
    return torch.stack(raster_units(factory, grid)[2]).to(device)
