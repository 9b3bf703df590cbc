"""One prediction of an objective: its sources, its targets and the tokens that reach it."""

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
    """One prediction under one draw of the mask.

    T is the number of tokens of the grid, tokens without pixels included.

    Args:
        number: Number of the prediction, from 0.
        count: Number of predictions of an image.
        row: Index of the mask among the masks of the image.
        source_positions: Positions whose outputs the head reads.
        target_positions: Positions whose tokens are predicted.
        from_tokens: Tokens at the source positions.
        of_tokens: Tokens at the target positions.
        reads: (T,) bool, tokens whose pixels reach the prediction.
        in_loss: Whether the prediction counts in the loss. It does not if all its targets are
            context.
        positioned: Whether the decoder tells the sources the positions of their targets.
    """

    number: int
    count: int
    row: int
    source_positions: list[int]
    target_positions: list[int]
    from_tokens: list[int]
    of_tokens: list[int]
    reads: Tensor
    in_loss: bool
    positioned: bool

    @property
    def leaks(self) -> list[int]:
        """Tokens that it predicts and also sees."""
        return [token for token in self.of_tokens if self.reads[token]]

    def sentence(self, grid: PatchGrid) -> str:
        """Describe sources, targets and the number of tokens read, in image coordinates."""
        positioned = " which are given the positions of their targets," if self.positioned else ""
        outputs, s = ("output", "s") if len(self.source_positions) == 1 else ("outputs", "")
        text = (
            f"prediction {self.number} (of 0 to {self.count - 1}): the {outputs} at "
            f"{_places(self.source_positions)}, {names(self.from_tokens, grid)},{positioned} "
            f"predict{s} {names(self.of_tokens, grid)} and read{s} "
            f"{int(self.reads.sum())} of {len(self.reads)} tokens"
        )
        return text if self.in_loss else f"{text}; it is not in the loss: its targets are context"


def pick(
    mask: Mask,
    links: list[Links],
    grid: PatchGrid,
    depth: tuple[int, int],
    number: int | None = None,
    mask_tokens: bool = False,
) -> Prediction:
    """Return the prediction of a given number.

    Predictions are numbered group by group, first those of the first mask of the image.

    Args:
        mask: One draw of the mask for one image.
        links: The predictions under it.
        grid: The grid of the image.
        depth: Numbers of layers of encoder and decoder, see ``certify_objective``.
        number: Number of the prediction. None chooses the middle one of those in the loss.
        mask_tokens: Whether mask tokens stand for hidden tokens in the encoder.

    Raises:
        ValueError: If there is no prediction of this number.
    """
    predictions = [
        (mask_index, link, g, in_loss)
        for mask_index in range(mask.masks_per_image)
        for link in links
        for g, in_loss in enumerate(
            compute_loss_mask(mask, link).expand(mask.masks_per_image, -1)[mask_index].tolist()
        )
    ]
    if number is None:
        counts = [n for n, (*_, in_loss) in enumerate(predictions) if in_loss]
        number = counts[len(counts) // 2] if counts else 0
    if not 0 <= number < len(predictions):
        raise ValueError(
            f"prediction {number} was asked for; this objective makes {len(predictions)} "
            f"predictions an image, 0 to {len(predictions) - 1}"
        )
    mask_index, link, g, in_loss = predictions[number]
    row, one = row_of(mask, mask_index), _only(link, mask_index, slice(g, g + 1))
    sources, targets = one.source_positions.flatten(), one.target_positions.flatten()
    return Prediction(
        number,
        len(predictions),
        mask_index,
        sources.tolist(),
        targets.tolist(),
        row.order[sources].tolist(),
        row.order[targets].tolist(),
        reaches(row, one, grid, depth, mask_tokens),
        in_loss,
        link.positioned,
    )


def leaking(refusal: Refusal) -> Prediction | None:
    """Return the prediction that sees its target; None if there is another reason."""
    leak, links = refusal.leak, refusal.links
    if leak is None:
        return None
    counts = [group.source_positions.shape[1] for group in links]
    number = leak.row * sum(counts) + sum(counts[: leak.group]) + leak.prediction
    return pick(refusal.mask, links, refusal.grid, refusal.depth, number, refusal.mask_tokens)


def reaches(
    mask: Mask, link: Links, grid: PatchGrid, depth: tuple[int, int], mask_tokens: bool = False
) -> Tensor:
    """Return (T,) bool, the tokens whose pixels reach the one prediction of ``link``."""
    reach = trace_reach(replace(mask, context=None), link, grid, depth, mask_tokens)
    seen = reach.seen
    if seen is None:  # under a staircase mask a prefix of the sequence is seen
        seen = (torch.arange(len(mask)) < reach.lengths.flatten()[0]) & mask.visible_or_all()
    tokens = torch.zeros(grid.tokens + grid.extra, dtype=torch.bool)
    tokens[mask.order[seen.flatten()]] = True
    return tokens


def names(tokens: list[int], grid: PatchGrid) -> str:
    """Describe tokens in image coordinates; name a rectangle by its corners."""
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


def _only(link: Links, mask_index: int, which: slice) -> Links:
    """Select some predictions of one mask of an image; positions become (1, G, ...)."""
    sources, targets = (
        v[mask_index % len(v)][None, which] for v in (link.source_positions, link.target_positions)
    )
    return replace(link, source_positions=sources, target_positions=targets)
