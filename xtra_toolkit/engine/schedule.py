"""Schedules that are longer than the run, and misspelt sections of a config."""

import inspect
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from mmengine.runner import Runner


def in_shares(parts: Any, max_epochs: float) -> list[dict] | None:
    """Shrink a learning-rate schedule where the run would end within its warm-up.

    That is where a part that begins later than another one would never begin. All parts then keep
    their share of the schedule, and the schedule becomes as long as the run.

    Args:
        parts: ``param_scheduler`` of a config; anything but a list of dictionaries is left alone.
        max_epochs: Epochs of the run.

    Returns:
        The new parts, or None where the schedule fits.
    """
    if not isinstance(parts, Sequence) or not all(isinstance(part, dict) for part in parts):
        return None
    by_epoch = [part for part in parts if part.get("by_epoch", True)]
    begins = [part.get("begin", 0) for part in by_epoch]
    if not any(begin and begin >= max_epochs for begin in begins):
        return None
    length = max(*begins, *(part.get("end", 0) for part in by_epoch))
    share = max_epochs / length
    found = [{**part} for part in parts]
    for part in found:
        if part.get("by_epoch", True):
            part.update({k: part[k] * share for k in ("begin", "end", "T_max") if part.get(k)})
    return found


def refuse_misspelt_sections(config: dict) -> None:
    """Raise ValueError where a section of a config is named almost as one that the runner reads.

    A config may hold names of its own; only those that are close to the runner's are refused.
    """
    known = [name for name in inspect.signature(Runner.__init__).parameters if len(name) > 4]
    for name, value in config.items():
        near = get_close_matches(name, known, 1, cutoff=0.8)
        if isinstance(value, dict) and near and name not in known and name[:3] == near[0][:3]:
            raise ValueError(
                f"The config has a section {name!r}, which nothing reads. Did you mean {near[0]}?"
            )
