"""One prediction: from where, of what, and what it reads."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.objective.compiler import Refusal
from xtra_toolkit.objective.links import Links, compute_loss_mask
from xtra_toolkit.objective.mask import Mask
from xtra_toolkit.objective.reach import trace_reach
from xtra_toolkit.visualization.objectives.view import row_of


@dataclass(frozen=True)
class Prediction:
    """A prediction of a draw; T tokens of the grid and those without pixels.

    Args:
        number, count: which of how many.
        row: of the mask in the batch: which of an image's masks it belongs to.
        sources, targets: positions whose outputs make it, positions whose tokens it predicts.
        from_tokens, of_tokens: tokens at the sources, tokens that it must produce.
        reads: (T,) bool, tokens whose pixels reach it.
        live: it counts in this draw; False: all its targets are given.
        positioned: its sources are told where their targets lie.
    """

    number: int
    count: int
    row: int
    source_positions: list[int]
    target_positions: list[int]
    from_tokens: list[int]
    of_tokens: list[int]
    reads: Tensor
    loss_mask: bool
    positioned: bool

    @property
    def leaks(self) -> list[int]:
        """Tokens that it must produce and can see."""
        return [token for token in self.of_tokens if self.reads[token]]

    def sentence(self, grid: PatchGrid) -> str:
        """Sources, targets and what is read, in image coordinates."""
        told = " which are told where their targets lie," if self.positioned else ""
        text = (
            f"prediction {self.number} (of 0 to {self.count - 1}): the output"
            f"{'s' * (len(self.source_positions) > 1)} at {_places(self.source_positions)}, "
            f"{names(self.from_tokens, grid)},{told} "
            f"predict{'s' * (len(self.source_positions) == 1)} "
            f"{names(self.of_tokens, grid)} and read{'s' * (len(self.source_positions) == 1)} "
            f"{int(self.reads.sum())} of {len(self.reads)} tokens"
        )
        return text if self.loss_mask else f"{text}; it does not count, for its targets are given"


def pick(
    mask: Mask,
    links: list[Links],
    grid: PatchGrid,
    depth: tuple[int, int],
    number: int | None = None,
) -> Prediction:
    """A prediction by its number: groups one after another, then the masks of an image.

    Args:
        mask, links: a draw of one image and what is predicted under it.
        depth: layers of encoder and decoder, see ``certify_objective``.
        number: None for the middle one of those that count.
    """
    every = [
        (copy, link, g, loss_mask)
        for copy in range(mask.masks_per_image)
        for link in links
        for g, loss_mask in enumerate(
            compute_loss_mask(mask, link).expand(mask.masks_per_image, -1)[copy].tolist()
        )
    ]
    if number is None:
        counts = [n for n, (*_, loss_mask) in enumerate(every) if loss_mask]
        number = counts[len(counts) // 2] if counts else 0
    if not 0 <= number < len(every):
        raise ValueError(
            f"prediction {number} was asked for; this objective makes {len(every)} predictions "
            f"an image, 0 to {len(every) - 1}"
        )
    copy, link, g, loss_mask = every[number]
    row, one = row_of(mask, copy), _only(link, copy, slice(g, g + 1))
    sources, targets = one.source_positions.flatten(), one.target_positions.flatten()
    return Prediction(
        number,
        len(every),
        copy,
        sources.tolist(),
        targets.tolist(),
        row.order[sources].tolist(),
        row.order[targets].tolist(),
        reaches(row, one, grid, depth),
        loss_mask,
        link.positioned,
    )


def leaking(refusal: Refusal) -> Prediction | None:
    """Return the prediction that sees its target; None if there is another reason."""
    leak, links = refusal.leak, refusal.links
    if leak is None:
        return None
    counts = [group.source_positions.shape[1] for group in links]
    number = leak.row * sum(counts) + sum(counts[: leak.group]) + leak.prediction
    return pick(refusal.mask, links, refusal.grid, refusal.depth, number)


def reaches(mask: Mask, link: Links, grid: PatchGrid, depth: tuple[int, int]) -> Tensor:
    """(T,) bool: tokens whose pixels reach the one prediction of a link."""
    found = trace_reach(replace(mask, context=None), link, grid, depth)
    seen = found.seen
    if seen is None:  # a staircase: a prefix of the sequence
        seen = (torch.arange(len(mask)) < found.lengths.flatten()[0]) & mask.visible_or_all()
    tokens = torch.zeros(grid.tokens + grid.extra, dtype=torch.bool)
    tokens[mask.order[seen.flatten()]] = True
    return tokens


def names(tokens: list[int], grid: PatchGrid) -> str:
    """Tokens in image coordinates; a rectangle by its corners."""
    if len(tokens) == 1:
        return grid.name(tokens[0])
    rows, cols = ({divmod(t, grid.cols)[i] for t in tokens} for i in (0, 1))
    area = (max(rows) - min(rows) + 1) * (max(cols) - min(cols) + 1)
    if max(tokens) < grid.tokens and area == len(set(tokens)):
        return f"patches {(min(rows), min(cols))} to {(max(rows), max(cols))}"
    return f"{len(tokens)} tokens, the first {grid.name(tokens[0])}"


def _places(positions: list[int]) -> str:
    if len(positions) == 1:
        return f"position {positions[0]}"
    if positions == list(range(positions[0], positions[-1] + 1)):
        return f"positions {positions[0]} to {positions[-1]}"
    return "positions " + ", ".join(map(str, positions))


def _only(link: Links, copy: int, which: slice) -> Links:
    """Some predictions of one of an image's masks, (1, G, …)."""
    sources, targets = (
        v[copy % len(v)][None, which] for v in (link.source_positions, link.target_positions)
    )
    return replace(link, source_positions=sources, target_positions=targets)
