"""Values of the device, the same in all processes, read by the host without waiting for it."""

import math
from typing import Any

import torch
from mmengine.dist import all_reduce, get_world_size
from torch import Tensor


class OneStepLate:
    """Takes a step's values and gives back those that are known: on a GPU, of the step before.

    The host then never waits for the step that it has just queued. On a CPU they are known at once.
    """

    def __init__(self) -> None:
        self._waiting: tuple | None = None

    def __call__(self, values: Tensor, note: Any = None) -> tuple[list[float], Any] | None:
        """``values`` (N,) as floats with their ``note``; None after the first step on a GPU."""
        if values.device.type != "cuda":
            return values.tolist(), note
        known = self.flush()
        copy = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        copy.copy_(values, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record()
        self._waiting = copy, note, arrived
        return known

    def flush(self) -> tuple[list[float], Any] | None:
        """What was not given back yet; waits for it."""
        if self._waiting is None:
            return None
        (copy, note, arrived), self._waiting = self._waiting, None
        arrived.synchronize()
        return copy.tolist(), note


def agreed(values: Tensor) -> Tensor:
    """``values``, NaN where they are not finite in any process."""
    if get_world_size() == 1:
        return values
    bad = (~values.isfinite()).float()
    all_reduce(bad, "max")
    return values.masked_fill(bad.bool(), math.nan)
