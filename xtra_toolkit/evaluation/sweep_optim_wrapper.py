"""Train modules together as if each had its own run: own learning rates and gradient clipping.

optim_wrapper = dict(
    type="xtra_toolkit.SweepOptimWrapper",
    constructor="xtra_toolkit.SweepOptimWrapperConstructor", ...)
"""

from collections import defaultdict
from typing import Any

import torch
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from torch import nn

from xtra_toolkit.engine.autocast import AutocastOptimWrapper
from xtra_toolkit.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS
from xtra_toolkit.utils.unwrap import unwrap_model


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class SweepOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Train each module that has an attribute ``own_lr`` at this learning rate.

    ``optimizer.lr`` and the ``lr_mult`` of ``paramwise_cfg`` do not apply to such a module. Its
    weight decay is the common one, changed by ``paramwise_cfg`` as usual.

    Raises:
        ValueError: If a parameter outside of these modules is trainable. They would share it.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None):
        # MMEngine makes no parameter groups if paramwise_cfg is empty
        super().__init__(optim_wrapper_cfg, paramwise_cfg or dict(custom_keys={}))

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Make the optimizer wrapper for the parameters of a model."""
        model = unwrap_model(model)
        own = {p for m in model.modules() if hasattr(m, "own_lr") for p in m.parameters()}
        shared = [n for n, p in model.named_parameters() if p.requires_grad and p not in own]
        if shared:
            raise ValueError(
                f"a sweep trains its probes and nothing that they share, but {shared[0]} is "
                f"trainable ({len(shared)} parameters outside of the probes): freeze the encoder, "
                "model.backbone.frozen_stages=<its number of layers>"
            )
        return super().__call__(model)

    def add_params(
        self, params: list[dict], module: nn.Module, prefix: str = "", **options: Any
    ) -> None:
        """Add a group for each trainable parameter, with the learning rate of its module."""
        if not any(p.requires_grad for p in module.parameters()):
            return  # MMEngine would warn of each parameter of a frozen encoder
        start = len(params)
        super().add_params(params, module, prefix, **options)
        rate = getattr(module, "own_lr", None)
        if rate is not None:
            for group in params[start:]:
                group.update(lr=rate, clipped_with=prefix)


@OPTIM_WRAPPERS.register_module()
class SweepOptimWrapper(AutocastOptimWrapper):
    """AutocastOptimWrapper that clips the gradients of each module of the sweep separately.

    Clipped together, the gradients of a probe at a high learning rate would shrink those of the
    others. The logged ``grad_norm`` is the largest norm.
    """

    def _clip_grad(self) -> None:
        modules = defaultdict(list)
        for group in self.optimizer.param_groups:
            modules[group["clipped_with"]] += [p for p in group["params"] if p.grad is not None]
        norms = [self.clip_func(params, **self.clip_grad_kwargs) for params in modules.values()]
        if norms and norms[0] is not None:  # clip_grad_value_ returns no norm
            largest = float(torch.stack(norms).max())
            self.message_hub.update_scalar(f"train/{self.grad_name}", largest)
