"""AdamW on float32 parameters while the model runs on bfloat16 copies of them."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

# Values that are updated at a time: on a CPU what its cache holds, so that the float32 gradient
# is never in memory; on a GPU so many that launching the kernels costs nothing.
CHUNK = {"cpu": 2**17}
LARGE = 2**24


class MasterAdamW(AdamW):
    """torch's fused AdamW, which also keeps a bfloat16 copy of each parameter up to date.

    It uses a parameter's own gradient, or, if there is none, the gradient of its copy. Parameters
    and state are those of AdamW in float32, and so are checkpoints.
    """

    @classmethod
    def of(cls, optimizer: Optimizer) -> "MasterAdamW":
        """Turn an AdamW into one that keeps copies; raise a ValueError if that is not possible."""
        if type(optimizer) is not AdamW:
            raise ValueError(
                f"bfloat16 weights with float32 masters are for AdamW, and the optimizer is "
                f"{type(optimizer).__name__}; set optim_wrapper.optimizer.type=torch.optim.AdamW, "
                "or take optim_wrapper.type=xtra_toolkit.AutocastOptimWrapper"
            )
        unserved = [
            name
            for name in ("amsgrad", "maximize", "capturable", "differentiable")
            if any(group[name] for group in optimizer.param_groups)
        ]
        if unserved:
            raise ValueError(
                f"bfloat16 weights with float32 masters are for AdamW without {unserved[0]}; "
                f"leave out optim_wrapper.optimizer.{unserved[0]}"
            )
        optimizer.__class__ = cls
        optimizer._patch_step_function()  # torch's hooks of step, for this class's own step too
        optimizer.__dict__.update(_no_copies())
        return optimizer

    def __getstate__(self) -> dict:
        """Return torch's state. A deep copy makes its own bfloat16 copies."""
        return {**super().__getstate__(), **_no_copies()}

    def parameters(self) -> Iterator[nn.Parameter]:
        """Return the parameters of all groups."""
        return (p for group in self.param_groups for p in group["params"])

    @property
    def halved(self) -> bool:
        """Return whether the gradients are still those of the bfloat16 copies."""
        return any(half.grad is not None for half in self.bf16_copies.values())

    @property
    def mixed(self) -> bool:
        """Return whether a parameter has a gradient of its own besides that of its copy."""
        return any(p.grad is not None and h.grad is not None for p, h in self.bf16_copies.items())

    @torch.compiler.disable
    @torch.no_grad()
    def refresh(self) -> None:
        """Create the copies, and update those of parameters that changed outside of a step.

        Changes in place are noticed; what is written through ``.data`` is not.
        """
        for p in self.parameters():
            if not p.requires_grad:
                self.bf16_copies.pop(p, None), self._seen.pop(p, None)  # frozen meanwhile
                continue
            if self._seen.get(p) == p._version:
                continue
            if p not in self.bf16_copies:
                if p.dtype != torch.float32:
                    raise ValueError(
                        f"a parameter of shape {tuple(p.shape)} is {p.dtype}; masters are the "
                        "model's own parameters, and they must be float32"
                    )
                self.bf16_copies[p] = torch.empty_like(p, dtype=torch.bfloat16, requires_grad=True)
            self.bf16_copies[p].detach().copy_(p)
            self._seen[p] = p._version

    @torch.compiler.disable
    @torch.no_grad()
    def collect(self) -> None:
        """Move the gradients of the copies to the parameters, in float32."""
        for p, half in self.bf16_copies.items():
            if half.grad is not None:
                grad = half.grad.float()
                p.grad = grad if p.grad is None else p.grad.add_(grad)
                half.grad = None

    @torch.compiler.disable
    @torch.no_grad()
    def clip(self, max_norm: float) -> Tensor:
        """Return the norm of the copies' gradients; the next step scales them to ``max_norm``."""
        assert not self.mixed, "collect first"
        squares = [
            grad.dot(grad)
            for half in self.bf16_copies.values()
            if half.grad is not None
            for grad in self._floats(half.grad)
        ]
        norm = torch.stack(squares).sum().sqrt()
        self._divisor = ((norm + 1e-6) / max_norm).clamp(min=1)
        return norm

    @torch.compiler.disable
    @torch.no_grad()
    def step(self, closure: Callable | None = None) -> None:
        """Update every parameter that has a gradient, and its copy."""
        assert closure is None, "a closure would have to be called on the halves"
        if self.mixed:
            self.collect()
        for group in self.param_groups:
            for p in group["params"]:
                half = self.bf16_copies.get(p)
                grad = p.grad if p.grad is not None or half is None else half.grad
                if grad is not None:
                    self._update(p, half, grad, group)
        self._divisor = None

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Reset the gradients; those of the copies are always set to None."""
        super().zero_grad(set_to_none)
        for half in self.bf16_copies.values():
            half.grad = None

    def _update(self, p: nn.Parameter, half: Tensor | None, grad: Tensor, group: dict) -> None:
        state = self.state[p]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=p.device)
            for name in ("exp_avg", "exp_avg_sq"):
                state[name] = torch.zeros_like(p, memory_format=torch.preserve_format)
        state["step"] += 1
        hyper = dict(lr=group["lr"], weight_decay=group["weight_decay"], eps=group["eps"])
        hyper.update(zip(("beta1", "beta2"), group["betas"], strict=True))
        hyper.update(amsgrad=False, maximize=False, grad_scale=self._divisor)
        steps = [state["step"]]
        for part, (own, first, second, copy) in zip(
            self._floats(grad), self._split(p, half), strict=True
        ):
            torch._fused_adamw_([own], [part], [first], [second], [], steps, **hyper)
            if copy is not None:
                copy.copy_(own)
        self._seen[p] = p._version

    def _split(self, p: nn.Parameter, half: Tensor | None) -> list[tuple]:
        """Return the parts of a parameter, its averages and its copy; the views are made once."""
        state = self.state[p]
        key = p.data_ptr(), state["exp_avg"].data_ptr(), None if half is None else half.data_ptr()
        if self._parts.get(p, (None,))[0] != key:
            whole = chunks(p), chunks(state["exp_avg"]), chunks(state["exp_avg_sq"])
            bf16_copies = [None] * len(whole[0]) if half is None else chunks(half.detach())
            self._parts[p] = key, list(zip(*whole, bf16_copies, strict=True))
        return self._parts[p][1]

    def _floats(self, grad: Tensor) -> Iterator[Tensor]:
        """Yield the parts of a gradient in float32, each in the memory of the one before."""
        parts = chunks(grad)
        if grad.dtype == torch.float32:
            yield from parts
            return
        buffer = parts[0].new_empty(len(parts[0]), dtype=torch.float32)
        for part in parts:
            yield buffer[: len(part)].copy_(part)


def _no_copies() -> dict:
    return dict(bf16_copies={}, _seen={}, _parts={}, _divisor=None)


def chunks(values: Tensor) -> tuple[Tensor, ...]:
    """Return a tensor, as it lies in memory, in flat parts."""
    if not values.is_contiguous():  # a dense one in another order, channels last for instance
        order = sorted(range(values.ndim), key=values.stride, reverse=True)
        values = values.permute(order)
    return values.view(-1).split(CHUNK.get(values.device.type, LARGE))
