"""Read values of the device on the host without waiting for the current step."""

import math
from typing import Any

import torch
from mmengine.dist import all_reduce, get_world_size
from torch import Tensor


class OneStepLate:
    """Take the values of a step and return those that have arrived.

    On a GPU these are the values of the step before, so that the host never waits for the step that
    it has just queued. On a CPU they are the values of the same step.
    """

    def __init__(self) -> None:
        self._pending: tuple | None = None

    def __call__(self, values: Tensor, note: Any = None) -> tuple[list[float], Any] | None:
        """Queue the values of a step.

        Args:
            values: (N,) values on any device.
            note: Anything; it is returned together with the values.

        Returns:
            Values as floats with their note; None after the first step on a GPU.
        """
        if values.device.type != "cuda":
            return values.tolist(), note
        previous = self.flush()
        copy = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        copy.copy_(values, non_blocking=True)
        copied = torch.cuda.Event()
        copied.record()
        self._pending = copy, note, copied
        return previous

    def flush(self) -> tuple[list[float], Any] | None:
        """Wait for the values that were not returned yet and return them, or None."""
        if self._pending is None:
            return None
        (copy, note, copied), self._pending = self._pending, None
        copied.synchronize()
        return copy.tolist(), note


def agreed(values: Tensor) -> Tensor:
    """Return the values, with NaN where they are not finite in any of the processes."""
    if get_world_size() == 1:
        return values
    not_finite = (~values.isfinite()).float()
    all_reduce(not_finite, "max")
    return values.masked_fill(not_finite.bool(), math.nan)
