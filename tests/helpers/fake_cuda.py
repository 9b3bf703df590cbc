"""Fake CUDA tensors, which need no card: they have shape, dtype and device, and no values.

A tensor that was left on the CPU, dtypes that do not fit and a value that is read on the host raise
an error, as they would on a GPU or would make it wait. There are no generators and no backward pass
without a driver.
"""

from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace

import torch
from torch import nn
from torch._subclasses.fake_tensor import (
    FakeTensor,
    FakeTensorMode,
    unset_fake_temporarily,
)

CUDA = torch.device("cuda:0")


@contextmanager
def fake_cuda(monkeypatch, capability=(9, 0)):
    """Run the block on a GPU that does not exist, under autocast to bfloat16; yield a converter.

    The converter takes tensors, modules (changed in place), and dataclasses, lists and tuples.
    """
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    before = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    with FakeTensorMode() as mode:
        torch.set_autocast_enabled("cuda", True)  # torch.autocast would look for a card
        torch.set_autocast_dtype("cuda", torch.bfloat16)
        try:
            yield lambda value, device=CUDA: convert(value, mode, device)
        finally:
            torch.set_autocast_enabled("cuda", before[0])
            torch.set_autocast_dtype("cuda", before[1])
            torch.clear_autocast_cache()


def convert(value, mode, device):
    if isinstance(value, torch.Tensor):
        with unset_fake_temporarily():
            meta = value.detach().to("meta")
        return FakeTensor(mode, meta, device)
    if isinstance(value, nn.Module):
        before = torch.__future__.get_overwrite_module_params_on_conversion()
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        try:
            return value._apply(lambda tensor: convert(tensor, mode, device))
        finally:
            torch.__future__.set_overwrite_module_params_on_conversion(before)
    if isinstance(value, list | tuple):
        return type(value)(convert(item, mode, device) for item in value)
    if is_dataclass(value):
        held = [f.name for f in fields(value) if not f.name.startswith("_")]
        return replace(value, **{n: convert(getattr(value, n), mode, device) for n in held})
    return value
