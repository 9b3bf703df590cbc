"""Registers: learned tokens without pixels, in front of the sequence of any mask.

Registers are those of arXiv 2309.16588. No mask and no target knows them: a mask factory makes its
mask for the grid without registers, and they are added here.
"""

from collections.abc import Callable
from dataclasses import fields, replace

import torch
from torch import Tensor

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.objective.links import Links
from xtra_toolkit.objective.mask import Mask, MaskFactory


class WithRegisters(MaskFactory):
    """Add the registers of a grid to each mask of a factory; see :func:`add_registers`."""

    def __init__(self, mask: MaskFactory):
        self.mask, self.random, self.weighted = mask, mask.random, mask.weighted

    def __call__(
        self,
        grid: PatchGrid,
        batch: int = 1,
        generator: torch.Generator | None = None,
        *weights: Tensor,
    ) -> Mask:
        return add_registers(self.mask(grid.without_registers(), batch, generator, *weights), grid)

    def for_features(self, grid: PatchGrid) -> Mask:
        """Return the mask of the features."""
        return add_registers(self.mask.for_features(grid.without_registers()), grid)

    def extremes(self, grid: PatchGrid) -> list[Mask]:
        """Return the extreme draws."""
        return [add_registers(m, grid) for m in self.mask.extremes(grid.without_registers())]

    def with_context(self, grid: PatchGrid, units: int) -> Mask:
        """Return the mask whose first ``units`` units, without the registers, are context."""
        return add_registers(self.mask.with_context(grid.without_registers(), units), grid)


def with_registers(mask: MaskFactory, grid: PatchGrid) -> MaskFactory:
    """Return the factory whose masks have the registers of a grid, or ``mask`` if it has none."""
    return WithRegisters(mask) if grid.registers else mask


def add_registers(mask: Mask, grid: PatchGrid) -> Mask:
    """Put the registers of a grid in front of a mask for the same grid without registers.

    All tokens may attend to the registers. The registers attend to each other and to what the
    first position of ``mask`` attends to: to the first block under BlockCausal, to the first token
    under TokenCausal, to all visible tokens under RandomShown. More would carry later tokens to
    the earlier ones. They are visible, are never predicted, and belong to no unit of the mask.
    """
    count, first = grid.registers, grid.tokens + grid.extra - grid.registers

    def front(value: Tensor | None, added: Callable[[Tensor], Tensor]) -> Tensor | None:
        if value is None:
            return None
        return torch.cat([added(value[..., :1]).expand(*value.shape[:-1], count), value], -1)

    return replace(
        mask,
        order=front(mask.order, lambda _: torch.arange(count, device=mask.order.device) + first),
        step=front(mask.step, lambda first_step: first_step),
        unit=front(mask.unit, lambda first_unit: first_unit - 1),
        visible=front(mask.visible, torch.ones_like),
        context=front(mask.context, torch.ones_like),
        decoder_step=front(mask.decoder_step, lambda first_step: first_step),
        **{
            name: _Shifted(predicate, count)
            for name in ("attend", "decoder_attend")
            if (predicate := getattr(mask, name)) is not None
        },
    )


class _Shifted:
    """Hold the predicate of a mask for the sequence with ``count`` registers in front."""

    def __init__(self, attend: Callable[[Tensor, Tensor], Tensor], count: int):
        self.attend, self.count = attend, count

    def __call__(self, query: Tensor, key: Tensor) -> Tensor:
        inner = self.attend(*((at - self.count).clamp(min=0) for at in (query, key)))
        return inner | (key < self.count)


def remove_registers(mask: Mask, grid: PatchGrid) -> Mask:
    """Return a mask without the registers that :func:`add_registers` put in front of it."""
    if not grid.registers:
        return mask
    cut = {
        f.name: value[..., grid.registers :]
        for f in fields(mask)
        if isinstance(value := getattr(mask, f.name), Tensor)
    }
    predicates = {name: getattr(mask, name) for name in ("attend", "decoder_attend")}
    inner = {name: p.attend for name, p in predicates.items() if isinstance(p, _Shifted)}
    return replace(mask, **cut, **inner)


def shift_links(links: list[Links], grid: PatchGrid) -> list[Links]:
    """Return links for the sequence with registers in front of it."""
    return [
        replace(
            group,
            source_positions=group.source_positions + grid.registers,
            target_positions=group.target_positions + grid.registers,
        )
        for group in links
    ]
