"""Modules that are trained together as if each had a run of its own: rates and clipping.

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
    """MMEngine's, but a module with an attribute ``own_lr`` is trained at that learning rate.

    ``optimizer.lr`` and the ``lr_mult`` of ``paramwise_cfg`` do not reach it; its weight decay is
    the common one, ``paramwise_cfg`` included.

    Raises:
        ValueError: a parameter outside of such modules is trainable; they would share it.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None):
        # where there is nothing in paramwise_cfg MMEngine makes no groups
        super().__init__(optim_wrapper_cfg, paramwise_cfg or dict(custom_keys={}))

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """The wrapper of a model's parameters."""
        model = unwrap_model(model)
        own = {p for m in model.modules() if hasattr(m, "own_lr") for p in m.parameters()}
        odd = [n for n, p in model.named_parameters() if p.requires_grad and p not in own]
        if odd:
            raise ValueError(
                f"a sweep trains its probes and nothing that they share, but {odd[0]} is trainable "
                f"({len(odd)} parameters outside of the probes): freeze the encoder, "
                "model.backbone.frozen_stages=<its number of layers>"
            )
        return super().__call__(model)

    def add_params(
        self, params: list[dict], module: nn.Module, prefix: str = "", **options: Any
    ) -> None:
        """Adds a group for each trainable parameter, with the module's rate and name."""
        if not any(p.requires_grad for p in module.parameters()):
            return  # a frozen encoder; MMEngine would warn of each parameter
        start = len(params)
        super().add_params(params, module, prefix, **options)
        rate = getattr(module, "own_lr", None)
        if rate is not None:
            for group in params[start:]:
                group.update(lr=rate, clipped_with=prefix)


@OPTIM_WRAPPERS.register_module()
class SweepOptimWrapper(AutocastOptimWrapper):
    """AutocastOptimWrapper; ``clip_grad`` takes each module of the sweep on its own.

    Over all together, a probe at a high learning rate would shrink the others' gradients. The
    logged ``grad_norm`` is the largest.
    """

    def _clip_grad(self) -> None:
        modules = defaultdict(list)
        for group in self.optimizer.param_groups:
            modules[group["clipped_with"]] += [p for p in group["params"] if p.grad is not None]
        norms = [self.clip_func(params, **self.clip_grad_kwargs) for params in modules.values()]
        if norms and norms[0] is not None:  # clip_grad_value_ has none
            largest = float(torch.stack(norms).max())
            self.message_hub.update_scalar(f"train/{self.grad_name}", largest)
