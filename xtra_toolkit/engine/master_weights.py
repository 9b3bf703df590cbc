"""Train on bfloat16 copies of float32 parameters: no casts, and no update is rounded away."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from xtra_toolkit.engine.master_adamw import MasterAdamW
from xtra_toolkit.registry import OPTIM_WRAPPERS
from xtra_toolkit.utils.unwrap import unwrap_model


class CastWithGradient(torch.autograd.Function):
    """Replace a float32 parameter by its bfloat16 copy; the parameter gets the gradient."""

    @staticmethod
    def forward(ctx: Any, fp32_param: Tensor, bf16_copy: Tensor) -> Tensor:
        """Return the copy."""
        return bf16_copy.view_as(bf16_copy)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """Return the gradient of the copy in float32."""
        return grad.float(), None


@OPTIM_WRAPPERS.register_module()
class MasterWeightsOptimWrapper(OptimWrapper):
    """Run forward and backward in bfloat16 throughout, and update float32 parameters by AdamW.

        --cfg-options optim_wrapper.type=xtra_toolkit.MasterWeightsOptimWrapper

    The parameters of the model stay float32, so checkpoints, resuming, EMA, schedules and parameter
    groups are those of a float32 run, and each kind of run can resume the other. Within a step
    every parameter is replaced by a bfloat16 copy, which the update writes again; frozen parameters
    are replaced too, except those of the target, so that a teacher stays float32. Activations,
    including the residual stream, and gradients have the dtype of the copies. Outside of a
    step, for instance in validation, all is float32. Gradients are accumulated and
    averaged over processes in float32.

    The model must convert its images to the dtype of its weights, as MaskTargetPretrainer does.
    Targets and the loss stay float32.

    Args:
        optimizer: A ``torch.optim.AdamW``, which becomes a :class:`MasterAdamW`.
        **kwargs: Arguments of MMEngine's ``OptimWrapper``, such as ``clip_grad``.

    Raises:
        ValueError: The optimizer is not AdamW, or a parameter is not float32.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, **kwargs: Any):
        super().__init__(MasterAdamW.of(optimizer), **kwargs)
        self._slots: list[tuple[dict, str, nn.Parameter]] | None = None
        self._copies: dict[nn.Parameter, Tensor] = {}
        self._frozen_copies: dict[nn.Parameter, tuple[int, Tensor]] = {}

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Run the block with bfloat16 copies of the weights, in MMEngine's context.

        MMEngine's context delays gradient synchronisation to the last micro-batch.
        """
        self.optimizer.refresh()
        if self._slots is None:
            self._refuse_another_model(slots := list(_parameter_slots(model)))
            self._slots = slots
        bf16_copies = self.optimizer.bf16_copies
        if self._accumulative_counts > 1 or hasattr(model, "no_sync"):
            # gradients are added up in float32
            bf16_copies = {p: CastWithGradient.apply(p, copy) for p, copy in bf16_copies.items()}
        frozen = {p: self._frozen_copy(p) for _, _, p in self._slots if p not in bf16_copies}
        self._copies = {**frozen, **bf16_copies}
        with super().optim_context(model), self._use_copies():
            yield

    def backward(self, loss: Tensor, **kwargs: Any) -> None:
        """Run the backward pass, in which recomputed activations are bfloat16 too."""
        with self._use_copies():
            super().backward(loss, **kwargs)

    def _refuse_another_model(self, slots: list[tuple]) -> None:
        """Refuse a model whose parameters the optimizer does not hold, as after a deepcopy."""
        own = {id(p) for p in self.optimizer.parameters()}
        if not any(id(p) in own for _, _, p in slots):
            raise ValueError(
                "The optimizer of MasterWeightsOptimWrapper holds none of the model's parameters, "
                "so it would train nothing. If it was copied, copy it together with its model: "
                "model, optim_wrapper = copy.deepcopy((model, optim_wrapper))."
            )

    def __getstate__(self) -> dict:
        """Return the state without what belongs to one model: slots and copies of parameters."""
        return {**self.__dict__, "_slots": None, "_copies": {}, "_frozen_copies": {}}

    def _frozen_copy(self, p: nn.Parameter) -> Tensor:
        """Return the bfloat16 copy of a frozen parameter, updated if the parameter changed."""
        if self._frozen_copies.get(p, (None,))[0] != p._version:
            self._frozen_copies[p] = p._version, p.detach().bfloat16()
        return self._frozen_copies[p][1]

    @contextmanager
    def _use_copies(self) -> Iterator[None]:
        """Replace the parameters of the model by their bfloat16 copies within the context."""
        try:
            for parameters, name, p in self._slots or ():
                parameters[name] = self._copies[p]
            yield
        finally:
            for parameters, name, p in self._slots or ():
                parameters[name] = p

    def _clip_grad(self) -> None:
        """Clip as MMEngine does, but compute the usual norm without float32 gradients."""
        usual = self.grad_name == "grad_norm" and self.clip_grad_kwargs.get("norm_type", 2) == 2
        if not usual or not self.optimizer.has_bf16_gradients or self.optimizer.has_mixed_gradients:
            self.optimizer.collect()
            return super()._clip_grad()
        norm = self.optimizer.clip(self.clip_grad_kwargs["max_norm"])
        if self.clip_grad_kwargs.get("error_if_nonfinite") and not norm.isfinite():
            raise RuntimeError(f"the norm of the gradients is {norm.item()}; they were not clipped")
        return self.message_hub.update_scalar("train/grad_norm", float(norm))


def _parameter_slots(model: nn.Module) -> Iterator[tuple[dict, str, nn.Parameter]]:
    """Iterate over (dict, name, parameter) of the float32 parameters outside of the target."""
    model = unwrap_model(model)
    target = getattr(model, "target_generator", None)
    target_modules = set(target.modules()) if isinstance(target, nn.Module) else set()
    for module in model.modules():
        for name, p in module._parameters.items():
            if p is not None and p.dtype == torch.float32 and module not in target_modules:
                yield module._parameters, name, p
