"""Weights in bfloat16 with float32 masters: no casts of weights, and updates that add up."""

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
    """A bfloat16 copy that is there already, in place of its master, which gets the gradient."""

    @staticmethod
    def forward(ctx: Any, master: Tensor, half: Tensor) -> Tensor:
        """The copy."""
        return half.view_as(half)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """The gradient of the copy, as float32."""
        return grad.float(), None


@OPTIM_WRAPPERS.register_module()
class MasterWeightsOptimWrapper(OptimWrapper):
    """Forward and backward in bfloat16 throughout; AdamW updates float32 masters.

        --cfg-options optim_wrapper.type=xtra_toolkit.MasterWeightsOptimWrapper

    The parameters of the model are the masters, so checkpoints, resuming, EMA, schedules and
    groups are those of a float32 run, and either can take up the other's. Within a step every
    parameter that is trained is replaced by a copy in bfloat16, which the update writes anew;
    activations, the residual stream among them, and gradients follow its dtype. So are parts that
    are frozen, but for the target's: a teacher stays float32. Outside of a step, in validation for
    instance, all is float32. Where gradients are accumulated or averaged over processes, that is
    done in float32.

    It is for models that bring their images to the dtype of their weights, as
    MaskTargetPretrainer does. Targets and the loss stay float32.

    Args:
        optimizer: a ``torch.optim.AdamW``, which becomes a :class:`MasterAdamW`.
        **kwargs: of MMEngine's ``OptimWrapper``, among them ``clip_grad``.

    Raises:
        ValueError: another optimizer, or a parameter that is not float32.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, **kwargs: Any):
        super().__init__(MasterAdamW.of(optimizer), **kwargs)
        self._places: list[tuple[dict, str, nn.Parameter]] | None = None
        self._held: dict[nn.Parameter, Tensor] = {}
        self._frozen: dict[nn.Parameter, tuple[int, Tensor]] = {}

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """MMEngine's context, which delays the synchronisation of gradients, on bfloat16."""
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
        """MMEngine's; what is checkpointed is computed anew in it, and in bfloat16."""
        with self._halved():
            super().backward(loss, **kwargs)

    def _refuse_another_model(self, places: list[tuple]) -> None:
        """A copy of the wrapper alone holds copies of the parameters, and no model has them."""
        held = {id(p) for p in self.optimizer.parameters()}
        if not any(id(p) in held for _, _, p in places):
            raise ValueError(
                "The optimizer of MasterWeightsOptimWrapper holds none of the model's parameters, "
                "so it would train nothing. If it was copied, copy it together with its model: "
                "model, optim_wrapper = copy.deepcopy((model, optim_wrapper))."
            )

    def __getstate__(self) -> dict:
        """Return what a copy needs: the places and the copies of weights are one model's own."""
        return {**self.__dict__, "_places": None, "_held": {}, "_frozen": {}}

    def _frozen_half(self, p: nn.Parameter) -> Tensor:
        """A copy of what is not trained, made anew where it changed."""
        if self._frozen.get(p, (None,))[0] != p._version:
            self._frozen[p] = p._version, p.detach().bfloat16()
        return self._frozen[p][1]

    @contextmanager
    def _halved(self) -> Iterator[None]:
        """Within it the model's parameters are the copies."""
        try:
            for parameters, name, p in self._places or ():
                parameters[name] = self._held[p]
            yield
        finally:
            for parameters, name, p in self._places or ():
                parameters[name] = p

    def _clip_grad(self) -> None:
        """MMEngine's; the usual norm without float32 copies of all gradients."""
        usual = self.grad_name == "grad_norm" and self.clip_grad_kwargs.get("norm_type", 2) == 2
        if not usual or not self.optimizer.halved or self.optimizer.mixed:
            self.optimizer.collect()
            return super()._clip_grad()
        norm = self.optimizer.clip(self.clip_grad_kwargs["max_norm"])
        if self.clip_grad_kwargs.get("error_if_nonfinite") and not norm.isfinite():
            raise RuntimeError(f"the norm of the gradients is {norm.item()}; they are not clipped")
        return self.message_hub.update_scalar("train/grad_norm", float(norm))


def _places(model: nn.Module) -> Iterator[tuple[dict, str, nn.Parameter]]:
    """Where the float32 parameters of a model stand, but for those of its target."""
    model = unwrap_model(model)
    target = getattr(model, "target_generator", None)
    apart = set(target.modules()) if isinstance(target, nn.Module) else set()
    for module in model.modules():
        for name, p in module._parameters.items():
            if p is not None and p.dtype == torch.float32 and module not in apart:
                yield module._parameters, name, p
