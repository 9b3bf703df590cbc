"""Mixed precision on a GPU, full precision on a CPU, from one config."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from torch import nn

from xtra_toolkit.registry import OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module()
class AutocastOptimWrapper(OptimWrapper):
    """The forward pass under bfloat16 autocast, where the model lives on one of ``devices``.

    Elsewhere it runs in float32: MMEngine's ``AmpOptimWrapper`` refuses the CPU. bfloat16 has
    float32's range, so there is no loss scaler; weights, gradients and optimizer stay float32.

    Args:
        dtype: ``'bfloat16'``, or ``'float32'`` for no autocast at all.
        devices: device types to autocast on; add ``'cpu'`` to autocast there too.
        **kwargs: of MMEngine's ``OptimWrapper``, among them ``clip_grad``.

    Raises:
        ValueError: another dtype; float16 needs a loss scaler.
    """

    def __init__(self, dtype: str = "bfloat16", devices: Sequence[str] = ("cuda",), **kwargs: Any):
        if dtype == "float16":
            raise ValueError(
                "AutocastOptimWrapper has no loss scaler, and float16 needs one: take "
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
        """MMEngine's context, which delays the synchronisation of gradients, plus autocast."""
        device = next(model.parameters()).device.type
        enabled = self.dtype == "bfloat16" and device in self.devices
        with (
            super().optim_context(model),
            torch.autocast(device, dtype=torch.bfloat16, enabled=enabled),
        ):
            yield
