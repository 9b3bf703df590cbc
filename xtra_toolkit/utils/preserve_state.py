"""Use a model in the middle of training without changing its state."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch import nn

from xtra_toolkit.data.seeding import seeded


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Set the model to evaluation mode within the block, and seed the random numbers.

    Afterwards the modes of all modules and the random states are restored.
    """
    modes = {module: module.training for module in model.modules()}
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices), seeded(0):
        model.eval()
        try:
            yield
        finally:
            for module, mode in modes.items():
                module.training = mode


@contextmanager
def gathered(wrapper: nn.Module, model: nn.Module, sharded: bool) -> Iterator[None]:
    """Let ``reconstruct`` of a sharded model run through the forward pass of its wrapper.

    The wrapper gathers the shards of the weights. A model that is not sharded is left as it is.
    """
    if not sharded:
        yield
        return
    with (
        patch.object(model, "forward", model.reconstruct),
        patch.object(model, "reconstruct", lambda *args: wrapper(*args)),
    ):
        yield
