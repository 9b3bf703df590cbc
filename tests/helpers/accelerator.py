"""A stand-in for a GPU on a machine without one: what would make the host wait for it is refused.

``meta`` plays the device: it has no values, so none can be read back, and what is copied to it
comes from the host. ``NoReads`` alone, on the CPU, knows reads and sizes that follow from values.
"""

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

META = torch.device("meta")


class NoReads(TorchDispatchMode):
    """Refuses what would make the host wait for a GPU: a value, or a size that follows from one."""

    READS = ("_local_scalar_dense", "is_nonzero", "nonzero", "equal", "_unique2", "masked_select")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert name not in self.READS, f"{name} reads a tensor in the step"
        return func(*args, **(kwargs or {}))


class NoCopies(NoReads):
    """And copies from the host, for which it waits too; the device is ``META``."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = super().__torch_dispatch__(func, types, args, kwargs)
        tensors = [t for t in (*args, *(kwargs or {}).values()) if isinstance(t, torch.Tensor)]
        on_host = [tuple(t.shape) for t in tensors if t.device != META and t.ndim]
        name = func.overloadpacket.__name__
        assert not on_host, f"{name} takes tensors of {on_host} from the host in the step"
        return out


class NoLists(TorchFunctionMode):
    """And tensors made of the host's numbers."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        assert func not in (torch.tensor, torch.as_tensor, torch.from_numpy), "made on the host"
        return func(*args, **(kwargs or {}))


class Generator(torch.Generator):
    """Draws on ``META``."""

    device = META
