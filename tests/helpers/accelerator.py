"""Detect, on a machine without a GPU, operations that would make the host wait for a GPU.

The meta device stands for the GPU. It holds no values, so none can be read back, and every tensor
with values is on the host. ``NoReads`` alone, on the CPU, detects reads of values and of sizes that
depend on values.
"""

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

META = torch.device("meta")


class NoReads(TorchDispatchMode):
    """Fail on reads that would make the host wait: of a value, or a size that depends on one."""

    READS = ("_local_scalar_dense", "is_nonzero", "nonzero", "equal", "_unique2", "masked_select")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert name not in self.READS, f"{name} reads a tensor in the step"
        return func(*args, **(kwargs or {}))


class NoCopies(NoReads):
    """Fail on reads, and on copies from the host to the device ``META``."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = super().__torch_dispatch__(func, types, args, kwargs)
        tensors = [t for t in (*args, *(kwargs or {}).values()) if isinstance(t, torch.Tensor)]
        on_host = [tuple(t.shape) for t in tensors if t.device != META and t.ndim]
        name = func.overloadpacket.__name__
        assert not on_host, f"{name} takes tensors of {on_host} from the host in the step"
        return out


class NoLists(TorchFunctionMode):
    """Fail on tensors that are created from numbers of the host."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        assert func not in (torch.tensor, torch.as_tensor, torch.from_numpy), "made on the host"
        return func(*args, **(kwargs or {}))


class Generator(torch.Generator):
    """A generator on the device ``META``."""

    device = META
