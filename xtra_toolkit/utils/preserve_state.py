"""A look at a model in training that leaves no trace."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch import nn

from xtra_toolkit.data.seeding import seeded


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Evaluation mode within; afterwards the modes and the random states are what they were."""
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
    """Within it a sharded model's ``reconstruct`` goes through its wrapper's forward pass, which
    brings the parts of the weights together.
    """
    if not sharded:
        yield
        return
    with (
        patch.object(model, "forward", model.reconstruct),
        patch.object(model, "reconstruct", lambda *args: wrapper(*args)),
    ):
        yield
