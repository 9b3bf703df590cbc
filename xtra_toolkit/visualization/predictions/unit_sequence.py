"""The sequence of units that an autoregressive objective predicts one after another."""

from dataclasses import dataclass, replace
from itertools import pairwise

from xtra_toolkit.attention import Pattern
from xtra_toolkit.objective.links import Links
from xtra_toolkit.objective.mask import Mask
from xtra_toolkit.objective.plan import Group, Plan


@dataclass(frozen=True)
class Unit:
    """Contiguous positions that are predicted together.

    Args:
        start: First position in the sequence.
        stop: Position after the last one.
        group: Index of the group of the prediction in the plan.
        link: Index of the prediction in its group.
        source_positions: Positions whose outputs the prediction reads.
    """

    start: int
    stop: int
    group: int
    link: int
    source_positions: tuple[int, ...]


def chain(links: list[Links], name: str) -> list[Unit]:
    """Return the units in sequence order, each predicted from its nearest sources.

    With look-ahead these are the predictions at distance 1.

    Args:
        links: The predictions of the objective.
        name: Name of the objective, for messages.

    Raises:
        ValueError: If the units do not follow one another without a gap.
    """
    nearest: dict[int, Unit] = {}
    for group, link in enumerate(links):
        rows = zip(
            link.source_positions[0].tolist(), link.target_positions[0].tolist(), strict=True
        )
        for i, (sources, targets) in enumerate(rows):
            unit = Unit(targets[0], targets[0] + len(targets), group, i, tuple(sources))
            gap = targets != list(range(unit.start, unit.stop))
            if gap or len(link.target_positions) > 1:
                raise ValueError(
                    f"{name}: tokens that are predicted together are apart in the sequence, or "
                    "their positions differ between images; only units that follow one another "
                    "(NextBlock, NextToken) can be continued"
                )
            farther = nearest.get(unit.start)
            if farther is None or max(sources) > max(farther.source_positions):
                nearest[unit.start] = unit
    units = [nearest[start] for start in sorted(nearest)]
    for before, unit in pairwise(units):
        if before.stop != unit.start:
            raise ValueError(
                f"{name}: positions {before.stop} to {unit.start - 1} are never predicted, or "
                "twice; only units that follow one another (NextBlock, NextToken) can be continued"
            )
    return units


def share_order(mask: Mask) -> Mask:
    """Return the mask with an order of shape (N,) if that of all images is the same."""
    if mask.order.ndim > 1 and (mask.order == mask.order[:1]).all():
        return replace(mask, order=mask.order[0])
    return mask


def refuse_mask(mask: Mask, name: str) -> None:
    """Raise a ValueError unless the mask is a staircase in one order without hidden tokens."""
    reason = None
    if mask.own_decoder:
        reason = "the decoder has a mask of its own, and outputs are cached under one mask"
    elif mask.attend is not None:
        reason = "a mask with a predicate (`attend`) is no staircase, so outputs cannot be cached"
    elif mask.order.ndim > 1 or mask.masks_per_image > 1:
        reason = "the order differs from image to image, so no unit comes next in all of them"
    elif mask.visible is not None:
        reason = "the mask hides tokens, and an image cannot be continued from hidden ones"
    if reason:
        raise ValueError(
            f"{name}: {reason}; xtra complete continues images under TokenCausal, BlockCausal, "
            "PrefixCausal and other masks of one order and steps"
        )


def step_plan(plan: Plan, start: int, stop: int) -> Plan:
    """Return the plan of new positions only, which attend to each other and predict nothing."""
    order, pattern = plan.order[:, start:stop], Pattern("full", stop - start)
    query_tokens = None if plan.query_tokens is None else plan.query_tokens[:, start:stop]
    both = dict(encoder=pattern, decoder=pattern, output_positions=None)
    return replace(
        plan, order=order, encoded_tokens=order, groups=[], query_tokens=query_tokens, **both
    )


def only(plan: Plan, links: list[Links], unit: Unit) -> Plan:
    """Return the plan of one prediction; the other groups of the head are empty."""
    groups = []
    for i, link in enumerate(links):
        selected = slice(unit.link, unit.link + 1) if i == unit.group else slice(0)
        groups.append(
            Group(link.source_positions[:, selected], link.target_positions[:, selected], None)
        )
    return replace(plan, groups=groups)
