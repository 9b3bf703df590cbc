"""Find the model inside the wrapper of distributed training."""

from mmengine.model import is_model_wrapper
from torch import nn


def unwrap_model(model: nn.Module) -> nn.Module:
    """Return the model inside a wrapper of MMEngine (DDP, FSDP), or the model itself."""
    return model.module if is_model_wrapper(model) else model
