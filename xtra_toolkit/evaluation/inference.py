"""An encoder that is only read: without autograd, and in bfloat16 on a GPU.

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
    """A dtype by its name; ValueError where it is neither of :data:`DTYPES`."""
    if dtype not in DTYPES:
        raise ValueError(f"dtype={dtype!r} was given; an encoder is read in {' or '.join(DTYPES)}")
    return dtype


def reads_in_bfloat16(model: nn.Module, dtype: str, devices: Sequence[str]) -> bool:
    """Does it run in bfloat16: is that asked for, and for the device that it lives on?"""
    return dtype == "bfloat16" and next(model.parameters()).device.type in devices


@contextmanager
def inference(
    model: nn.Module, dtype: str = "bfloat16", devices: Sequence[str] = ("cuda",)
) -> Iterator[None]:
    """Inference mode, and bfloat16 autocast where the model lives on one of ``devices``.

    What comes out may not be trained on; a clone made outside may.
    """
    device, enabled = next(model.parameters()).device.type, reads_in_bfloat16(model, dtype, devices)
    with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=enabled):
        yield


class _Inference:
    """What the two loops share."""

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
        """MMEngine's, which would turn autocast off without ``fp16`` and takes our dtype with."""
        model = self.runner.model
        self.fp16 = reads_in_bfloat16(model, self.dtype, self.devices)
        with inference(model, self.dtype, self.devices):
            super().run_iter(idx, data_batch)


@LOOPS.register_module()
class InferenceValLoop(_Inference, ValLoop):
    """MMEngine's validation, in inference mode and in the precision of training.

    Args:
        runner, dataloader, evaluator: of MMEngine's loop.
        dtype: ``'bfloat16'`` or ``'float32'``.
        devices: device types that run in bfloat16; add ``'cpu'`` for it to do so too.

    Raises:
        ValueError: another dtype.
    """


@LOOPS.register_module()
class InferenceTestLoop(_Inference, TestLoop):
    """The same for ``mim test``; arguments as of :class:`InferenceValLoop`."""
