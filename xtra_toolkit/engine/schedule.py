"""Shrink a learning-rate schedule that is longer than the run."""

import math
from collections.abc import Sequence
from typing import Any


def in_shares(parts: Any, max_epochs: float, steps: int = 1_000_000) -> list[dict] | None:
    """Shrink a learning-rate schedule if the run would end within its warm-up.

    That is the case if a part that begins later than another one would never begin. All parts then
    keep their share of the schedule, and the schedule becomes as long as the run. A part that would
    last less than two steps is left out: MMEngine's warm-up of one step would never end.

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
                    new[key] = _at_step(max(part[key] * max_epochs / length, 1 / steps), steps)
            end = new.get("end", _at_step(max_epochs, steps))
            if int(end * steps) - int(new.get("begin", 0) * steps) < 2:
                continue
        found.append(new)
    return found


def _at_step(epochs: float, steps: int) -> float:
    """Return epochs such that MMEngine, which truncates epochs times steps, finds their step.

    For example ``1 / 49 * 49`` is less than one in floating point, and would become step 0.
    """
    step = int(round(epochs * steps, 6))
    while int(epochs * steps) < step:
        epochs = math.nextafter(epochs, math.inf)
    return epochs
