"""View: one draw of a mask on its grid, in the form in which it is printed and drawn.

Shape legend: N positions of the sequence; T tokens of the grid, tokens without pixels included.
"""

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.objective.mask import Mask

# Kinds of pairs (query, key). If a token stands at two positions, raster order shows the greater.
BLIND, DEAD, DECODER, ENCODER, BOTH = range(5)


@dataclass(frozen=True)
class View:
    """One mask of one image.

    Args:
        mask: The mask, with fields of shape (N,).
        grid: The grid of the image.
        num_computed: Number of positions that are computed; no prediction reads later ones.
        mask_tokens: Whether mask tokens stand for hidden tokens in the encoder.
        cross: Whether the queries of the decoder attend to the encoded tokens alone.
    """

    mask: Mask
    grid: PatchGrid
    num_computed: int
    mask_tokens: bool = False
    cross: bool = False

    @classmethod
    def of(
        cls,
        mask: Mask,
        grid: PatchGrid,
        num_computed: int | None = None,
        row: int = 0,
        mask_tokens: bool = False,
        cross: bool = False,
    ) -> "View":
        """Make the view of one row of a batch of masks; by default all positions are computed."""
        num_computed = len(mask) if num_computed is None else num_computed
        return cls(row_of(mask, row), grid, num_computed, mask_tokens, cross)

    @property
    def tokens(self) -> int:
        """T, the number of tokens, tokens without pixels included."""
        return self.grid.tokens + self.grid.extra

    @property
    def numbers(self) -> list[str]:
        """Return the positions of each token in the sequence: '7', '0, 15', or '' if left out."""
        places: list[list[str]] = [[] for _ in range(self.tokens)]
        for position, token in enumerate(self.mask.order.tolist()):
            places[token].append(str(position))
        return [", ".join(positions) for positions in places]

    @property
    def steps(self) -> Tensor:
        """(T,) step of each token at its first position; -1 if it is left out."""
        steps = torch.full((self.tokens,), -1)
        steps[self.mask.order.flip(0)] = self.mask.step.flip(0).cpu()
        return steps

    @property
    def context(self) -> Tensor:
        """(T,) bool, tokens that are context at each of their positions."""
        context = self.mask.context
        return self._any(context) & ~self._any(None if context is None else ~context)

    @property
    def units(self) -> list[list[int]]:
        """Tokens of each unit; an empty list if every unit is a single token."""
        if self.mask.unit is None:
            return []
        _, lengths = self.mask.unit.unique_consecutive(return_counts=True)
        units = [unit.tolist() for unit in self.mask.order.split(lengths.tolist())]
        return units if lengths.max() > 1 else []

    @property
    def hidden(self) -> Tensor:
        """(T,) bool, tokens of the sequence whose pixels never enter the encoder."""
        return (self.steps >= 0) & ~self._any(self.mask.visible_or_all())

    @property
    def sequence(self) -> Tensor:
        """Return the kind of each pair (query, key), (N, N).

        BLIND pairs do not attend, DEAD ones are never computed. The others attend in the DECODER
        alone, in the ENCODER alone, or in BOTH.
        """
        kinds = torch.tensor([[BLIND, DECODER], [ENCODER, BOTH]])
        pairs = kinds[self.encoder.long(), self.decoder.long()]
        dead = torch.arange(len(self.mask)) >= self.num_computed
        return pairs.masked_fill((pairs > 0) & (dead[:, None] | dead), DEAD)

    @property
    def encoder(self) -> Tensor:
        """Return (N, N) bool: whether a query attends to a key in the encoder."""
        return self.mask.attention_mask()[0] & self.encoded[:, None] & self.encoded

    @property
    def decoder(self) -> Tensor:
        """Return (N, N) bool: whether a query attends to a key in the decoder."""
        pairs = self.mask.of_decoder().attention_mask()[0]
        return pairs & self.encoded if self.cross else pairs

    @property
    def encoded(self) -> Tensor:
        """Return (N,) bool, positions that the encoder holds."""
        return self.mask.visible_or_all() | self.mask_tokens

    @property
    def raster(self) -> Tensor:
        """Return :attr:`sequence` by tokens, (T, T): tokens without pixels, then raster order."""
        at = torch.tensor(self.in_raster(self.mask.order.tolist()))
        flat = (at[:, None] * self.tokens + at).flatten()
        empty = torch.zeros(self.tokens**2, dtype=torch.long)
        return empty.scatter_reduce(0, flat, self.sequence.flatten(), "amax").view(self.tokens, -1)

    def in_raster(self, tokens: list[int]) -> list[int]:
        """Return the rows of tokens in :attr:`raster`."""
        return [(token + self.grid.extra) % self.tokens for token in tokens]

    def _any(self, flags: Tensor | None) -> Tensor:
        """Return (T,) bool, tokens at a position where ``flags`` (N,) is set."""
        marked = torch.zeros(self.tokens, dtype=torch.bool)
        if flags is not None:
            marked[self.mask.order[flags]] = True
        return marked


def row_of(mask: Mask, row: int) -> Mask:
    """Return one row of a batch of masks on the CPU, with fields of shape (N,)."""
    names = [f.name for f in fields(mask) if isinstance(getattr(mask, f.name), Tensor)]
    values = {name: torch.atleast_2d(getattr(mask, name)).cpu() for name in names}
    return replace(mask, **{name: v[row % len(v)] for name, v in values.items()}, masks_per_image=1)
