"""A look at a model in training that leaves no trace."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from xtra_toolkit.data.seeded import seeded


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
