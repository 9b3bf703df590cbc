"""The units that an autoregressive target predicts, one after another."""

from dataclasses import dataclass, replace
from itertools import pairwise

from xtra_toolkit.attention import Pattern
from xtra_toolkit.objective.links import Links
from xtra_toolkit.objective.mask import Mask
from xtra_toolkit.objective.plan import Group, Plan


@dataclass(frozen=True)
class Unit:
    """What is predicted together.

    Args:
        start, stop: its positions in the sequence.
        group, link: of a plan, which prediction it is.
        sources: positions whose outputs it is predicted from.
    """

    start: int
    stop: int
    group: int
    link: int
    source_positions: tuple[int, ...]


def chain(links: list[Links], pair: str) -> list[Unit]:
    """Units in sequence order, each from its nearest sources: of look-ahead, distance 1.

    Raises:
        ValueError: they do not follow one another without a gap.
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
                    f"{pair}: what is predicted together lies apart in the sequence, or elsewhere "
                    "in each image; only units that follow one another (NextBlock, NextToken) are "
                    "continued"
                )
            other = nearest.get(unit.start)
            if other is None or max(sources) > max(other.source_positions):
                nearest[unit.start] = unit
    units = [nearest[start] for start in sorted(nearest)]
    for before, unit in pairwise(units):
        if before.stop != unit.start:
            raise ValueError(
                f"{pair}: positions {before.stop} to {unit.start - 1} are never predicted, or "
                "twice; only units that follow one another (NextBlock, NextToken) are continued"
            )
    return units


def refuse_mask(mask: Mask, pair: str) -> None:
    """ValueError unless the mask is a staircase in one order for all images that shows them."""
    reason = None
    if mask.attend is not None:
        reason = "a mask with a predicate (`attend`) is no staircase, and a step is not just new"
    elif mask.order.ndim > 1 or mask.masks_per_image > 1:
        reason = "the order differs from image to image, so no unit comes next in all of them"
    elif mask.visible is not None:
        reason = "the mask hides tokens, and what is hidden cannot be gone on from"
    if reason:
        raise ValueError(
            f"{pair}: {reason}; xtra complete continues images under TokenCausal, BlockCausal, "
            "PrefixCausal and other masks of one order and steps"
        )


def step_plan(plan: Plan, start: int, stop: int) -> Plan:
    """The plan of new positions alone, which see each other; nothing is predicted yet."""
    order, pattern = plan.order[:, start:stop], Pattern("full", stop - start)
    query_tokens = None if plan.query_tokens is None else plan.query_tokens[:, start:stop]
    both = dict(encoder=pattern, decoder=pattern, output_positions=None)
    return replace(
        plan, order=order, encoded_tokens=order, groups=[], query_tokens=query_tokens, **both
    )


def only(plan: Plan, links: list[Links], unit: Unit) -> Plan:
    """The plan of one prediction: all other groups of the head are empty."""
    groups = []
    for i, link in enumerate(links):
        here = slice(unit.link, unit.link + 1) if i == unit.group else slice(0)
        groups.append(Group(link.source_positions[:, here], link.target_positions[:, here], None))
    return replace(plan, groups=groups)
