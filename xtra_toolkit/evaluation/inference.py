"""Run an encoder for evaluation: without autograd, and in bfloat16 on a GPU.

val_cfg = dict(type="xtra_toolkit.InferenceValLoop")
test_cfg = dict(type="xtra_toolkit.InferenceTestLoop")
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.runner import TestLoop, ValLoop
from torch import nn

from xtra_toolkit.registry import LOOPS

DTYPES = ("bfloat16", "float32")


def check_dtype(dtype: str) -> str:
    """Return the dtype; raise a ValueError if it is not one of :data:`DTYPES`."""
    if dtype not in DTYPES:
        raise ValueError(f"dtype={dtype!r} was given; an encoder is run in {' or '.join(DTYPES)}")
    return dtype


def runs_in_bfloat16(model: nn.Module, dtype: str, devices: Sequence[str]) -> bool:
    """Return whether bfloat16 is requested for a model and ``devices`` has its device."""
    return dtype == "bfloat16" and next(model.parameters()).device.type in devices


@contextmanager
def inference(
    model: nn.Module, dtype: str = "bfloat16", devices: Sequence[str] = ("cuda",)
) -> Iterator[None]:
    """Use inference mode, and bfloat16 autocast if the model is on one of ``devices``.

    Outputs cannot be used in training; a clone that is made outside of this context can.
    """
    device, enabled = next(model.parameters()).device.type, runs_in_bfloat16(model, dtype, devices)
    with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=enabled):
        yield


class _Inference:
    """Methods that both loops share."""

    def __init__(
        self,
        runner: Any,
        dataloader: Any,
        evaluator: Any,
        dtype: str = "bfloat16",
        devices: Sequence[str] = ("cuda",),
    ):
        self.dtype, self.devices = check_dtype(dtype), tuple(devices)
        super().__init__(runner, dataloader, evaluator)

    def run_iter(self, idx: int, data_batch: dict) -> None:
        """Run MMEngine's iteration in this context; ``fp16`` keeps it from disabling autocast."""
        model = self.runner.model
        self.fp16 = runs_in_bfloat16(model, self.dtype, self.devices)
        with inference(model, self.dtype, self.devices):
            super().run_iter(idx, data_batch)


@LOOPS.register_module()
class InferenceValLoop(_Inference, ValLoop):
    """MMEngine's validation loop in inference mode and in the precision of training.

    Args:
        runner: MMEngine's runner.
        dataloader: The images to validate on.
        evaluator: The metrics.
        dtype: ``'bfloat16'`` or ``'float32'``.
        devices: Device types that run in bfloat16. Add ``'cpu'`` to include it.

    Raises:
        ValueError: If ``dtype`` is another one.
    """


@LOOPS.register_module()
class InferenceTestLoop(_Inference, TestLoop):
    """Do the same for ``mim test``, with the arguments of :class:`InferenceValLoop`."""
