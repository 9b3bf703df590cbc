"""Use mixed precision on a GPU and full precision on a CPU, from one config."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from torch import nn

from xtra_toolkit.registry import OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module()
class AutocastOptimWrapper(OptimWrapper):
    """Run the forward pass under bfloat16 autocast if the model is on one of ``devices``.

    On other devices it runs in float32, since MMEngine's ``AmpOptimWrapper`` refuses the CPU.
    bfloat16 has the range of float32, so no loss scaler is needed. Weights, gradients and the state
    of the optimizer stay float32.

    Args:
        dtype: ``'bfloat16'``, or ``'float32'`` to run without autocast.
        devices: Types of the devices with autocast. Add ``'cpu'`` to use autocast on the CPU too.
        **kwargs: Arguments of MMEngine's ``OptimWrapper``, such as ``clip_grad``.

    Raises:
        ValueError: The dtype is another one. float16 would need a loss scaler.
    """

    def __init__(self, dtype: str = "bfloat16", devices: Sequence[str] = ("cuda",), **kwargs: Any):
        if dtype == "float16":
            raise ValueError(
                "AutocastOptimWrapper has no loss scaler, and float16 needs one: set "
                "dtype='bfloat16', or MMEngine's optim_wrapper.type='AmpOptimWrapper'."
            )
        if dtype not in ("bfloat16", "float32"):
            raise ValueError(
                f"AutocastOptimWrapper takes dtype='bfloat16' or 'float32', not {dtype!r}."
            )
        super().__init__(**kwargs)
        self.dtype = dtype
        self.devices = tuple(devices)

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Enter MMEngine's context, which delays the synchronisation of gradients, and autocast."""
        device = next(model.parameters()).device.type
        enabled = self.dtype == "bfloat16" and device in self.devices
        with (
            super().optim_context(model),
            torch.autocast(device, dtype=torch.bfloat16, enabled=enabled),
        ):
            yield
