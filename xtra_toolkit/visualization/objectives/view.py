"""View: one draw of a mask on its grid, as it is printed and drawn.

Shape legend: N positions of the sequence, T tokens of the grid and those without pixels.
"""

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.objective.mask import Mask

# a pair of an attention matrix; of two that meet in raster order the greater counts
BLIND, DEAD, DECODER, BOTH = range(4)


@dataclass(frozen=True)
class View:
    """A mask of one image.

    Args:
        mask: its fields of shape (N,).
        grid: the image's.
        keep: positions that are computed; behind them is dead work.
    """

    mask: Mask
    grid: PatchGrid
    num_computed: int

    @classmethod
    def of(
        cls, mask: Mask, grid: PatchGrid, num_computed: int | None = None, row: int = 0
    ) -> "View":
        """Of one row of a batch of masks; ``keep`` is the whole length by default."""
        return cls(row_of(mask, row), grid, len(mask) if num_computed is None else num_computed)

    @property
    def tokens(self) -> int:
        """Tokens of the grid and those without pixels, T."""
        return self.grid.tokens + self.grid.extra

    @property
    def numbers(self) -> list[str]:
        """For each token its positions in the sequence: '7', '0, 15', or '' for a left-out one."""
        places: list[list[str]] = [[] for _ in range(self.tokens)]
        for position, token in enumerate(self.mask.order.tolist()):
            places[token].append(str(position))
        return [", ".join(positions) for positions in places]

    @property
    def steps(self) -> Tensor:
        """(T,) step of each token, where it stands first; -1 for a left-out one."""
        steps = torch.full((self.tokens,), -1)
        steps[self.mask.order.flip(0)] = self.mask.step.flip(0).cpu()
        return steps

    @property
    def context(self) -> Tensor:
        """(T,) bool: tokens that are never predicted."""
        return self._any(self.mask.context)

    @property
    def units(self) -> list[list[int]]:
        """Tokens that are predicted together; empty where each is a unit of its own."""
        if self.mask.unit is None:
            return []
        _, lengths = self.mask.unit.unique_consecutive(return_counts=True)
        units = [unit.tolist() for unit in self.mask.order.split(lengths.tolist())]
        return units if lengths.max() > 1 else []

    @property
    def hidden(self) -> Tensor:
        """(T,) bool: tokens of the sequence whose pixels enter the encoder nowhere."""
        return (self.steps >= 0) & ~self._any(self.mask.visible_or_all())

    @property
    def sequence(self) -> Tensor:
        """(N, N), row attends to column: BLIND, DEAD (never computed), DECODER alone, or BOTH."""
        attention_mask, visible = self.mask.attention_mask()[0], self.mask.visible_or_all()
        pairs = torch.where(visible[:, None] & visible, BOTH, DECODER) * attention_mask
        dead = torch.arange(len(self.mask)) >= self.num_computed
        return pairs.masked_fill(attention_mask & (dead[:, None] | dead), DEAD)

    @property
    def raster(self) -> Tensor:
        """(T, T), the same by token: those without pixels first, then raster order."""
        at = torch.tensor(self.in_raster(self.mask.order.tolist()))
        flat = (at[:, None] * self.tokens + at).flatten()
        empty = torch.zeros(self.tokens**2, dtype=torch.long)
        return empty.scatter_reduce(0, flat, self.sequence.flatten(), "amax").view(self.tokens, -1)

    def in_raster(self, tokens: list[int]) -> list[int]:
        """Rows of tokens in :attr:`raster`."""
        return [(token + self.grid.extra) % self.tokens for token in tokens]

    def _any(self, flags: Tensor | None) -> Tensor:
        """(T,) bool: tokens that stand at a position where ``flags`` (N,) is set."""
        marked = torch.zeros(self.tokens, dtype=torch.bool)
        if flags is not None:
            marked[self.mask.order[flags]] = True
        return marked


def row_of(mask: Mask, row: int) -> Mask:
    """One row of a batch of masks, its fields of shape (N,), on the host."""
    names = [f.name for f in fields(mask) if isinstance(getattr(mask, f.name), Tensor)]
    values = {name: torch.atleast_2d(getattr(mask, name)).cpu() for name in names}
    return replace(mask, **{name: v[row % len(v)] for name, v in values.items()}, masks_per_image=1)
