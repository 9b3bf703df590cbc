"""Train with bfloat16 weights and float32 master parameters."""

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
    """Replace a float32 parameter by its bfloat16 copy, and pass the gradient on."""

    @staticmethod
    def forward(ctx: Any, master: Tensor, half: Tensor) -> Tensor:
        """Return the copy."""
        return half.view_as(half)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """Return the gradient of the copy in float32."""
        return grad.float(), None


@OPTIM_WRAPPERS.register_module()
class MasterWeightsOptimWrapper(OptimWrapper):
    """Run forward and backward in bfloat16; AdamW updates float32 master parameters.

        --cfg-options optim_wrapper.type=xtra_toolkit.MasterWeightsOptimWrapper

    The parameters of the model are the float32 masters, so checkpoints, resuming, EMA, schedules
    and parameter groups are those of a float32 run, and either kind of run can resume the other's.
    Within a step every trained parameter is replaced by a bfloat16 copy, which the update writes
    anew. Activations (the residual stream included) and gradients have its dtype. Frozen parts are
    replaced too, except for those of the target: a teacher stays float32. Outside of a step, for
    example in validation, everything is float32. Accumulation and averaging of gradients over
    processes are done in float32.

    The model must cast its images to the dtype of its weights, as MaskTargetPretrainer does.
    Target values and the loss stay float32.

    Args:
        optimizer: A ``torch.optim.AdamW``, which becomes a :class:`MasterAdamW`.
        **kwargs: Arguments of MMEngine's ``OptimWrapper``, for example ``clip_grad``.

    Raises:
        ValueError: The optimizer is another one, or a parameter is not float32.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, **kwargs: Any):
        super().__init__(MasterAdamW.of(optimizer), **kwargs)
        self._places: list[tuple[dict, str, nn.Parameter]] | None = None
        self._held: dict[nn.Parameter, Tensor] = {}
        self._frozen: dict[nn.Parameter, tuple[int, Tensor]] = {}

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Return MMEngine's context (delayed gradient synchronisation) with bfloat16 copies."""
        self.optimizer.refresh()
        if self._places is None:
            self._refuse_another_model(places := list(_places(model)))
            self._places = places
        bf16_copies = self.optimizer.bf16_copies
        if self._accumulative_counts > 1 or hasattr(model, "no_sync"):  # else nothing is added up
            bf16_copies = {p: CastWithGradient.apply(p, half) for p, half in bf16_copies.items()}
        frozen = {p: self._frozen_half(p) for _, _, p in self._places if p not in bf16_copies}
        self._held = {**frozen, **bf16_copies}
        with super().optim_context(model), self._halved():
            yield

    def backward(self, loss: Tensor, **kwargs: Any) -> None:
        """Run the backward pass; checkpointed activations are recomputed in bfloat16."""
        with self._halved():
            super().backward(loss, **kwargs)

    def _refuse_another_model(self, places: list[tuple]) -> None:
        """Refuse a copy of the wrapper alone: no model has the copied parameters."""
        held = {id(p) for p in self.optimizer.parameters()}
        if not any(id(p) in held for _, _, p in places):
            raise ValueError(
                "The optimizer of MasterWeightsOptimWrapper holds none of the model's parameters, "
                "so it would train nothing. If it was copied, copy it together with its model: "
                "model, optim_wrapper = copy.deepcopy((model, optim_wrapper))."
            )

    def __getstate__(self) -> dict:
        """Return what a copy needs; places and weight copies belong to one model."""
        return {**self.__dict__, "_places": None, "_held": {}, "_frozen": {}}

    def _frozen_half(self, p: nn.Parameter) -> Tensor:
        """Return the bfloat16 copy of a frozen parameter, made anew after a change."""
        if self._frozen.get(p, (None,))[0] != p._version:
            self._frozen[p] = p._version, p.detach().bfloat16()
        return self._frozen[p][1]

    @contextmanager
    def _halved(self) -> Iterator[None]:
        """Replace the parameters of the model by their copies within the context."""
        try:
            for parameters, name, p in self._places or ():
                parameters[name] = self._held[p]
            yield
        finally:
            for parameters, name, p in self._places or ():
                parameters[name] = p

    def _clip_grad(self) -> None:
        """Clip by the usual norm without float32 copies of all gradients."""
        usual = self.grad_name == "grad_norm" and self.clip_grad_kwargs.get("norm_type", 2) == 2
        if not usual or not self.optimizer.halved or self.optimizer.mixed:
            self.optimizer.collect()
            return super()._clip_grad()
        norm = self.optimizer.clip(self.clip_grad_kwargs["max_norm"])
        if self.clip_grad_kwargs.get("error_if_nonfinite") and not norm.isfinite():
            raise RuntimeError(f"the norm of the gradients is {norm.item()}; they are not clipped")
        return self.message_hub.update_scalar("train/grad_norm", float(norm))


def _places(model: nn.Module) -> Iterator[tuple[dict, str, nn.Parameter]]:
    """Yield where the float32 parameters of a model are stored, except for its target's."""
    model = unwrap_model(model)
    target = getattr(model, "target_generator", None)
    apart = set(target.modules()) if isinstance(target, nn.Module) else set()
    for module in model.modules():
        for name, p in module._parameters.items():
            if p is not None and p.dtype == torch.float32 and module not in apart:
                yield module._parameters, name, p
