"""The leak check: refuse a pair in which a prediction can see what it has to produce."""

from collections import Counter
from dataclasses import dataclass

import torch

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.objective.links import Links, compute_loss_mask, gather_positions
from xtra_toolkit.objective.mask import Mask
from xtra_toolkit.objective.reach import Depth, Reach, first_visible, trace_reach


@dataclass(frozen=True)
class Leak:
    """Describe one prediction that can see one of its targets.

    Args:
        group: Index of the group of links.
        row: Row of the mask in its batch.
        prediction: Index of the prediction in its group.
        target: Index of the target in its prediction.
    """

    group: int
    row: int
    prediction: int
    target: int


def find_leak(
    mask: Mask, links: list[Links], grid: PatchGrid, depth: Depth, mask_tokens: bool = False
) -> Leak | None:
    """Return the first leak of one draw, or None; see :func:`trace_reach` for the arguments.

    Raises:
        ValueError: The draw cannot be served; the message says why.
    """
    for index, group in enumerate(links):
        _check_targets(mask, group, grid)
        leaks = trace_reach(mask, group, grid, depth, mask_tokens).leaks
        if leaks.any():
            return Leak(index, *leaks.nonzero()[0].tolist())
    if not any(compute_loss_mask(mask, group).any() for group in links):
        raise ValueError("nothing is predicted: every target is context")
    return None


def check_positioned(links: list[Links]) -> None:
    """Check that each positioned source has one target; raise a ValueError if not."""
    groups = [group for group in links if group.positioned]
    shapes = {
        (group.source_positions.shape[-1], group.target_positions.shape[-1]) for group in groups
    }
    if any(sources != targets for sources, targets in shapes):
        raise ValueError(
            "a positioned link tells each source its target, so it needs as many sources as "
            f"targets; given (sources, targets): {sorted(shapes)}"
        )
    counts = Counter(p for group in groups for p in group.source_positions[0].flatten().tolist())
    twice = [position for position, count in counts.items() if count > 1]
    if twice:
        raise ValueError(
            f"position {twice[0]} is a positioned source twice, but it can be told only one "
            "target; predict a single distance (look_ahead=1)"
        )


def _check_targets(mask: Mask, links: Links, grid: PatchGrid) -> None:
    tokens = gather_positions(torch.atleast_2d(mask.order), links.target_positions)
    if (tokens >= grid.tokens).any() and not links.sees_target:
        token = int(tokens[tokens >= grid.tokens][0])
        raise ValueError(f"{grid.name(token)} is a target, but it has no pixels to predict")
    if mask.order.ndim == 2 and not (links.at_own_position or links.positioned):
        raise ValueError(
            "the order differs from image to image, and nothing tells the model where its target "
            "lies; predict at the target's own position (MaskedPatches), tell the source "
            "(positioned=True), or share the order in the batch"
        )


def describe_leak(
    leak: Leak,
    mask: Mask,
    links: list[Links],
    grid: PatchGrid,
    depth: Depth,
    mask_tokens: bool = False,
) -> str:
    """Return a sentence that names the prediction, its target and the path between them."""
    group, order = links[leak.group], torch.atleast_2d(mask.order)
    order = order[leak.row % len(order)]
    sources, targets = (
        positions[leak.row % len(positions), leak.prediction].tolist()
        for positions in (group.source_positions, group.target_positions)
    )
    token = int(order[targets[leak.target]])
    reach = trace_reach(mask, group, grid, depth, mask_tokens)
    position, why = _path(leak, reach, mask, grid, token)
    name = grid.name(token)
    places = f" {sources[0]}" if len(sources) == 1 else f"s {sources[0]} to {sources[-1]}"
    return (
        f"the prediction of {name} from position{places} can see {name} through position "
        f"{position}, {why}; a prediction must not see what it has to produce: choose a mask that "
        "comes to it later, or another target"
    )


def _path(leak: Leak, reach: Reach, mask: Mask, grid: PatchGrid, token: int) -> tuple[int, str]:
    if reach.seen is None:
        first = first_visible(mask, grid)
        return int(first[leak.row % len(first), token]), "whose step is not later"
    order = torch.atleast_2d(mask.order)[0]
    where = (order == token) & reach.seen[leak.prediction]
    return int(where.nonzero()[0]), "which reaches it through the layers"
