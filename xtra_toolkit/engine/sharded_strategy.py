"""Shard models that do not fit on one GPU: MMEngine's FSDP, corrected so that it resumes.

    runner_type = "xtra_toolkit.ShardedRunner"
    strategy = dict(type="xtra_toolkit.ShardedStrategy")

A checkpoint equals that of an unsharded run, weights and optimizer alike, so either kind of run can
resume the other's.
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

from xtra_toolkit.models.layers import MaskedLayer
from xtra_toolkit.models.linear import WideLinear
from xtra_toolkit.registry import STRATEGIES

# The layers of encoder and decoder, and the head's matrices, which are larger than any layer
POLICY = ModuleWrapPolicy({MaskedLayer, WideLinear})


@STRATEGIES.register_module()
class ShardedStrategy(FSDPStrategy):
    """Keep a part of weights, gradients and optimizer state on each process.

    The precision is that of the optimizer wrapper, autocast: norms, softmax and loss are float32 as
    in an unsharded run. FSDP's own MixedPrecision would run them in bfloat16.

    Args:
        model_wrapper: Arguments of ``MMFullyShardedDataParallel`` besides those that follow from
            the machine.
        **kwargs: Arguments of MMEngine's FSDPStrategy except ``state_dict_cfg``: checkpoints are
            unsharded.

    Raises:
        ValueError: There is no launcher, ``use_orig_params`` is off, or an optimizer wrapper clips
            by other norms than torch's.
    """

    def __init__(self, *, model_wrapper: dict | None = None, **kwargs: Any):
        if not (model_wrapper or {}).get("use_orig_params", True):
            raise ValueError(
                "use_orig_params=False would leave the optimizer with parameters that are no "
                "longer the model's: leave it out of strategy.model_wrapper."
            )
        gpu = torch.cuda.is_available()
        machine = {} if gpu else dict(device_id=torch.device("cpu"))
        wrapper = dict(auto_wrap_policy=POLICY, **machine) | (model_wrapper or {})
        # on a CPU torch 2.14 "offloads" without a copy, and gathers exp_avg_sq over exp_avg
        averages = FullOptimStateDictConfig(offload_to_cpu=gpu, rank0_only=True)
        whole = dict(
            state_dict_type="FULL_STATE_DICT",
            state_dict_config=FullStateDictConfig(offload_to_cpu=True, rank0_only=True),
            optim_state_dict_config=averages,
        )
        super().__init__(model_wrapper=wrapper, state_dict_cfg=whole, **kwargs)

    def prepare(self, model: nn.Module | dict, **kwargs: Any) -> Any:
        """Prepare as MMEngine does, but build the optimizer before wrapping the model."""
        self._optim_wrapper = kwargs.get("optim_wrapper")
        return super().prepare(model, **kwargs)

    def build_optim_wrapper(self, optim_wrapper: Any, model: nn.Module) -> OptimWrapper:
        """Return the wrapper of the unsharded parameters, which clips by the global norm."""
        wrapper = self._optim_wrapper
        if wrapper.clip_grad_kwargs and wrapper.grad_name == "grad_norm":
            wrapper.clip_func = lambda _, **how: model.clip_grad_norm_(**how)
        return wrapper

    def optim_state_dict(self) -> dict:
        """Return an unsharded optimizer state on rank 0; elsewhere without its tensors."""
        optimizer = self.optim_wrapper.optimizer
        whole = FSDP.optim_state_dict(self.model, optimizer)
        if whole:  # names to numbers
            whole = FSDP.rekey_optim_state_dict(
                whole, OptimStateKeyType.PARAM_ID, self.model, optim=optimizer
            )
        return {**self.optim_wrapper.state_dict(), **whole}

    def load_checkpoint(self, filename: str, **kwargs: Any) -> dict:
        """Load the file once for each machine, and never whole into a GPU's memory."""
        with serialization.patch("load.mmap", is_zipfile(filename)):
            return super().load_checkpoint(filename, **{**kwargs, "map_location": "cpu"})

    def load_model_state_dict(self, state_dict: dict, **kwargs: Any) -> None:
        """Load an unsharded state, and report what does not fit, which MMEngine does not."""
        kwargs.pop("revise_keys", None)
        missing, unexpected = self.model.load_state_dict(state_dict, **kwargs)
        for names, what in ((missing, "are not in the checkpoint"), (unexpected, "fit nowhere")):
            if names:
                self.logger.warning(f"{len(names)} weights {what}, the first {names[0]!r}.")

    def load_optim_state_dict(self, state_dict: dict) -> None:
        """Load an unsharded optimizer state.

        MMEngine 0.10.7 passes (state, model, optim) where torch takes (model, optim, state).
        """
        optimizer = self.optim_wrapper.optimizer
        named = FSDP.rekey_optim_state_dict(
            state_dict, OptimStateKeyType.PARAM_NAME, self.model, optim=optimizer
        )
        parts = FSDP.optim_state_dict_to_load(self.model, optimizer, named)
        self.optim_wrapper.load_state_dict({**state_dict, **parts})

    def _setup_distributed(self, *args: Any, **kwargs: Any) -> None:
        """Start the process group; on a machine without GPUs MMEngine would look for one."""
        from xtra_toolkit.engine import gloo  # noqa: F401  it replaces that launcher

        return super()._setup_distributed(*args, **kwargs)

    def _wrap_model(self, model: nn.Module) -> nn.Module:
        if not is_distributed():
            raise ValueError(
                "ShardedStrategy shards over processes, and there is one without a launcher: add "
                "--launcher pytorch --gpus N, or take the config without sharding."
            )
        if self._optim_wrapper is not None:
            # paramwise_cfg asks for names and dimensions, and the parts have one dimension
            self._optim_wrapper = super().build_optim_wrapper(self._optim_wrapper, model)
            refuse_other_norms(self._optim_wrapper)
        with DefaultScope.overwrite_default_scope("mmengine"):  # MMPretrain's has no functions
            return super()._wrap_model(model)


def refuse_other_norms(wrapper: OptimWrapper) -> None:
    """Raise a ValueError if an optimizer wrapper clips, or replaces, its own parameters."""
    if getattr(type(wrapper), "_clip_grad", None) is not OptimWrapper._clip_grad:
        raise ValueError(
            f"{type(wrapper).__name__} has its own way with whole parameters, and here each "
            "process has a part: set optim_wrapper.type=xtra_toolkit.AutocastOptimWrapper."
        )
