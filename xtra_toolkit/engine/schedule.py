"""Shrink a learning-rate schedule that is longer than the run."""

from collections.abc import Sequence
from typing import Any


def in_shares(parts: Any, max_epochs: float, steps: int = 1_000_000) -> list[dict] | None:
    """Shrink a learning-rate schedule if the run would end within its warm-up.

    That is the case if a part that begins later than another one would never begin. All parts then
    keep their share of the schedule, and the schedule becomes as long as the run. Each part is at
    least one step long; a part for which no step is left is dropped.

    Args:
        parts: ``param_scheduler`` of a config; anything but a list of dictionaries is left alone.
        max_epochs: Epochs of the run.
        steps: Optimizer steps of an epoch.

    Returns:
        The new parts, or None if the schedule fits.
    """
    if not isinstance(parts, Sequence) or not all(isinstance(part, dict) for part in parts):
        return None
    by_epoch = [part for part in parts if part.get("by_epoch", True)]
    begins = [part.get("begin", 0) for part in by_epoch]
    if not any(begin and begin >= max_epochs for begin in begins):
        return None
    length = max(*begins, *(part.get("end", 0) for part in by_epoch))
    found = []
    for part in parts:
        new = {**part}
        if part.get("by_epoch", True):
            for key in ("begin", "end", "T_max"):
                if part.get(key):
                    new[key] = max(part[key] * max_epochs / length, 1 / steps)
            if new.get("begin", 0) >= new.get("end", max_epochs):
                continue
        found.append(new)
    return found
