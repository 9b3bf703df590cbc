"""Shard models that do not fit on one GPU by MMEngine's FSDP, and resume them.

    runner_type = "xtra_toolkit.ShardedRunner"
    strategy = dict(type="xtra_toolkit.ShardedStrategy")

Checkpoints have the format of an unsharded run, weights and optimizer state alike, so a sharded run
can resume an unsharded one and the other way round.
"""

from typing import Any
from zipfile import is_zipfile

import torch
from mmengine._strategy import FSDPStrategy
from mmengine.dist import is_distributed
from mmengine.optim import OptimWrapper
from mmengine.registry import DefaultScope
from torch import nn
from torch.distributed.fsdp import (
    FullOptimStateDictConfig,
    FullStateDictConfig,
    OptimStateKeyType,
)
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.utils.serialization import config as serialization

from xtra_toolkit.models.cross_layers import CrossLayer
from xtra_toolkit.models.layers import MaskedLayer
from xtra_toolkit.models.linear import WideLinear
from xtra_toolkit.registry import STRATEGIES

# Wrap each layer of encoder and decoder, and the matrices of the head, larger than any layer
WRAP_POLICY = ModuleWrapPolicy({MaskedLayer, CrossLayer, WideLinear})


@STRATEGIES.register_module()
class ShardedStrategy(FSDPStrategy):
    """Keep a part of the weights, gradients and optimizer state in each process.

    The precision is set by the optimizer wrapper, through autocast: norms, softmax and loss are in
    float32 as in an unsharded run. FSDP's own MixedPrecision would compute them in bfloat16.

    Args:
        model_wrapper: Arguments of ``MMFullyShardedDataParallel``, besides those that depend on the
            machine.
        **kwargs: Arguments of MMEngine's FSDPStrategy except ``state_dict_cfg``, since checkpoints
            always hold all weights.

    Raises:
        ValueError: There is no launcher, ``use_orig_params`` is False, or the optimizer wrapper has
            its own way to clip gradients.
    """

    def __init__(self, *, model_wrapper: dict | None = None, **kwargs: Any):
        if not (model_wrapper or {}).get("use_orig_params", True):
            raise ValueError(
                "use_orig_params=False would leave the optimizer with parameters that are no "
                "longer the model's: leave it out of strategy.model_wrapper."
            )
        gpu = torch.cuda.is_available()
        device = {} if gpu else dict(device_id=torch.device("cpu"))
        wrapper = dict(auto_wrap_policy=WRAP_POLICY, **device) | (model_wrapper or {})
        # On a CPU, torch offloads without a copy: 2.10 reads freed weights, 2.14 overwrites
        # exp_avg by exp_avg_sq.
        once = dict(offload_to_cpu=gpu, rank0_only=True)
        state_dict_cfg = dict(
            state_dict_type="FULL_STATE_DICT",
            state_dict_config=FullStateDictConfig(**once),
            optim_state_dict_config=FullOptimStateDictConfig(**once),
        )
        super().__init__(model_wrapper=wrapper, state_dict_cfg=state_dict_cfg, **kwargs)

    def prepare(self, model: nn.Module | dict, **kwargs: Any) -> Any:
        """Prepare as MMEngine does, but build the optimizer before the model is wrapped."""
        self._optim_wrapper = kwargs.get("optim_wrapper")
        return super().prepare(model, **kwargs)

    def build_optim_wrapper(self, optim_wrapper: Any, model: nn.Module) -> OptimWrapper:
        """Return the wrapper, built before sharding, that clips by the norm over all processes."""
        wrapper = self._optim_wrapper
        if wrapper.clip_grad_kwargs and wrapper.grad_name == "grad_norm":
            wrapper.clip_func = lambda _, **kwargs: model.clip_grad_norm_(**kwargs)
        return wrapper

    def optim_state_dict(self) -> dict:
        """Return the state of an unsharded optimizer; tensors are on the first process only."""
        optimizer = self.optim_wrapper.optimizer
        state = FSDP.optim_state_dict(self.model, optimizer)
        if state:  # from names of parameters to their numbers
            state = FSDP.rekey_optim_state_dict(
                state, OptimStateKeyType.PARAM_ID, self.model, optim=optimizer
            )
        return {**self.optim_wrapper.state_dict(), **state}

    def load_checkpoint(self, filename: str, **kwargs: Any) -> dict:
        """Load a checkpoint on the CPU, mapped into memory once for all processes of a machine."""
        with serialization.patch("load.mmap", is_zipfile(filename)):
            return super().load_checkpoint(filename, **{**kwargs, "map_location": "cpu"})

    def load_model_state_dict(self, state_dict: dict, **kwargs: Any) -> None:
        """Load the state of an unsharded model, and warn of keys that do not match.

        MMEngine's FSDPStrategy is silent about them.
        """
        kwargs.pop("revise_keys", None)
        missing, unexpected = self.model.load_state_dict(state_dict, **kwargs)
        for names, place in ((missing, "the checkpoint"), (unexpected, "the model")):
            if names:
                self.logger.warning(
                    f"{len(names)} weights are not in {place}, the first {names[0]!r}."
                )

    def load_optim_state_dict(self, state_dict: dict) -> None:
        """Load the state of an unsharded optimizer.

        MMEngine 0.10.7 and onedl-mmengine 0.10.12 pass (state, model, optim), where torch expects
        (model, optim, state).
        """
        optimizer = self.optim_wrapper.optimizer
        named = FSDP.rekey_optim_state_dict(
            state_dict, OptimStateKeyType.PARAM_NAME, self.model, optim=optimizer
        )
        parts = FSDP.optim_state_dict_to_load(self.model, optimizer, named)
        self.optim_wrapper.load_state_dict({**state_dict, **parts})

    def _setup_distributed(self, *args: Any, **kwargs: Any) -> None:
        """Join the processes; on a machine without GPUs, through a launcher that needs none."""
        from xtra_toolkit.engine import gloo  # noqa: F401  it replaces MMEngine's launcher

        return super()._setup_distributed(*args, **kwargs)

    def _wrap_model(self, model: nn.Module) -> nn.Module:
        if not is_distributed():
            raise ValueError(
                "ShardedStrategy shards over processes, and there is one without a launcher: add "
                "--launcher pytorch --gpus N, or use the config without sharding."
            )
        if self._optim_wrapper is not None:
            # paramwise_cfg needs names and dimensions, which flattened parts do not have
            self._optim_wrapper = super().build_optim_wrapper(self._optim_wrapper, model)
            refuse_own_clipping(self._optim_wrapper)
        with DefaultScope.overwrite_default_scope("mmengine"):  # MMPretrain's has no functions
            return super()._wrap_model(model)


def refuse_own_clipping(wrapper: OptimWrapper) -> None:
    """Raise a ValueError for an optimizer wrapper that overrides the clipping of gradients."""
    if getattr(type(wrapper), "_clip_grad", None) is not OptimWrapper._clip_grad:
        raise ValueError(
            f"{type(wrapper).__name__} clips or replaces whole parameters, and here each "
            "process holds a part of them: set "
            "optim_wrapper.type=xtra_toolkit.AutocastOptimWrapper."
        )
