"""Update float32 parameters by AdamW while the model runs on bfloat16 copies of them."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

# Number of values updated at a time, by device type. On a CPU a chunk fits into the cache, so that
# the float32 gradient is never in memory; on a GPU launching the kernels costs nothing.
CHUNK_SIZES = {"cpu": 2**17}
LARGE_CHUNK = 2**24


class MasterAdamW(AdamW):
    """Run torch's fused AdamW, and keep a bfloat16 copy of each parameter up to date.

    A step uses the gradient of a parameter, or that of its bfloat16 copy if the parameter has none.
    Parameters, state and checkpoints are those of AdamW, in float32.
    """

    @classmethod
    def of(cls, optimizer: Optimizer) -> "MasterAdamW":
        """Turn an AdamW into a MasterAdamW, in place.

        Raises:
            ValueError: The optimizer is not an AdamW, or has an option that is not supported.
        """
        if type(optimizer) is not AdamW:
            raise ValueError(
                f"bfloat16 weights with float32 parameters need AdamW, and the optimizer is "
                f"{type(optimizer).__name__}; set optim_wrapper.optimizer.type=torch.optim.AdamW, "
                "or optim_wrapper.type=xtra_toolkit.AutocastOptimWrapper"
            )
        unsupported = [
            name
            for name in ("amsgrad", "maximize", "capturable", "differentiable")
            if any(group[name] for group in optimizer.param_groups)
        ]
        if unsupported:
            raise ValueError(
                f"bfloat16 weights with float32 parameters do not support {unsupported[0]} of "
                f"AdamW; leave out optim_wrapper.optimizer.{unsupported[0]}"
            )
        optimizer.__class__ = cls
        optimizer._patch_step_function()  # so that hooks of step run for this class too
        optimizer.__dict__.update(_no_copies())
        return optimizer

    def __getstate__(self) -> dict:
        """Return the state without the bfloat16 copies; a copied optimizer makes its own."""
        return {**super().__getstate__(), **_no_copies()}

    def parameters(self) -> Iterator[nn.Parameter]:
        """Iterate over the float32 parameters of all groups."""
        return (p for group in self.param_groups for p in group["params"])

    @property
    def has_bf16_gradients(self) -> bool:
        """Return whether any gradient is still on a bfloat16 copy."""
        return any(copy.grad is not None for copy in self.bf16_copies.values())

    @property
    def has_mixed_gradients(self) -> bool:
        """Return whether a parameter and its copy both have one, as with a weight penalty."""
        return any(
            p.grad is not None and copy.grad is not None for p, copy in self.bf16_copies.items()
        )

    @torch.compiler.disable
    @torch.no_grad()
    def refresh(self) -> None:
        """Make missing bfloat16 copies, and update those whose parameter changed outside of a step.

        Changes are found by the version counter of a parameter, which writes through ``.data`` do
        not raise.

        Raises:
            ValueError: A parameter that is trained is not float32.
        """
        for p in self.parameters():
            if not p.requires_grad:
                self.bf16_copies.pop(p, None), self._seen.pop(p, None)  # it was frozen meanwhile
                continue
            if self._seen.get(p) == p._version:
                continue
            if p not in self.bf16_copies:
                if p.dtype != torch.float32:
                    raise ValueError(
                        f"a parameter of shape {tuple(p.shape)} is {p.dtype}; "
                        "MasterAdamW needs the parameters of the model in float32"
                    )
                self.bf16_copies[p] = torch.empty_like(p, dtype=torch.bfloat16, requires_grad=True)
            self.bf16_copies[p].detach().copy_(p)
            self._seen[p] = p._version

    @torch.compiler.disable
    @torch.no_grad()
    def collect(self) -> None:
        """Move the gradients of the bfloat16 copies to the parameters, in float32."""
        for p, bf16_copy in self.bf16_copies.items():
            if bf16_copy.grad is not None:
                grad = bf16_copy.grad.float()
                p.grad = grad if p.grad is None else p.grad.add_(grad)
                bf16_copy.grad = None

    @torch.compiler.disable
    @torch.no_grad()
    def clip(self, max_norm: float) -> Tensor:
        """Return the gradient norm of the copies; the next step clips it to ``max_norm``."""
        assert not self.has_mixed_gradients, "call collect() first"
        squares = [
            grad.dot(grad)
            for bf16_copy in self.bf16_copies.values()
            if bf16_copy.grad is not None
            for grad in self._float_chunks(bf16_copy.grad)
        ]
        norm = torch.stack(squares).sum().sqrt()
        self._divisor = ((norm + 1e-6) / max_norm).clamp(min=1)
        return norm

    @torch.compiler.disable
    @torch.no_grad()
    def step(self, closure: Callable | None = None) -> None:
        """Update every parameter that has a gradient, and its bfloat16 copy."""
        assert closure is None, "a closure is not supported"
        if self.has_mixed_gradients:
            self.collect()
        for group in self.param_groups:
            for p in group["params"]:
                bf16_copy = self.bf16_copies.get(p)
                grad = p.grad if p.grad is not None or bf16_copy is None else bf16_copy.grad
                if grad is not None:
                    self._update(p, bf16_copy, grad, group)
        self._divisor = None

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients of parameters and copies; those of copies are always set to None."""
        super().zero_grad(set_to_none)
        for bf16_copy in self.bf16_copies.values():
            bf16_copy.grad = None

    def _update(self, p: nn.Parameter, bf16_copy: Tensor | None, grad: Tensor, group: dict) -> None:
        state = self.state[p]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=p.device)
            for name in ("exp_avg", "exp_avg_sq"):
                state[name] = torch.zeros_like(p, memory_format=torch.preserve_format)
        state["step"] += 1
        options = dict(lr=group["lr"], weight_decay=group["weight_decay"], eps=group["eps"])
        options.update(zip(("beta1", "beta2"), group["betas"], strict=True))
        options.update(amsgrad=False, maximize=False, grad_scale=self._divisor)
        steps = [state["step"]]
        for grad_chunk, (chunk, exp_avg, exp_avg_sq, copy_chunk) in zip(
            self._float_chunks(grad), self._split(p, bf16_copy), strict=True
        ):
            torch._fused_adamw_(
                [chunk], [grad_chunk], [exp_avg], [exp_avg_sq], [], steps, **options
            )
            if copy_chunk is not None:
                copy_chunk.copy_(chunk)
        self._seen[p] = p._version

    def _split(self, p: nn.Parameter, bf16_copy: Tensor | None) -> list[tuple]:
        """Return matching chunks of a parameter, its averages and its copy; views are cached."""
        state = self.state[p]
        tensors = p, state["exp_avg"], bf16_copy
        key = tuple(None if tensor is None else tensor.data_ptr() for tensor in tensors)
        if self._chunks.get(p, (None,))[0] != key:
            views = chunks(p), chunks(state["exp_avg"]), chunks(state["exp_avg_sq"])
            copies = [None] * len(views[0]) if bf16_copy is None else chunks(bf16_copy.detach())
            self._chunks[p] = key, list(zip(*views, copies, strict=True))
        return self._chunks[p][1]

    def _float_chunks(self, grad: Tensor) -> Iterator[Tensor]:
        """Iterate over the chunks of a gradient in float32; each overwrites the one before."""
        parts = chunks(grad)
        if grad.dtype == torch.float32:
            yield from parts
            return
        buffer = parts[0].new_empty(len(parts[0]), dtype=torch.float32)
        for part in parts:
            yield buffer[: len(part)].copy_(part)


def _no_copies() -> dict:
    return dict(bf16_copies={}, _seen={}, _chunks={}, _divisor=None)


def chunks(values: Tensor) -> tuple[Tensor, ...]:
    """Split a dense tensor into flat chunks, in the order of its memory."""
    if not values.is_contiguous():  # such as channels last
        order = sorted(range(values.ndim), key=values.stride, reverse=True)
        values = values.permute(order)
    return values.view(-1).split(CHUNK_SIZES.get(values.device.type, LARGE_CHUNK))
