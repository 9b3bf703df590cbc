"""Product, softmax, product: the fast way for short sequences on a CPU that is fast in bfloat16.

With AMX or AVX-512 bf16, bfloat16 products are so fast that what flash attention recomputes costs
more than what it saves: at 240 tokens this is about twice as fast as SDPA (make bench). The price
is memory: the weights are kept for the backward, B x heads x Q x N values a layer.
"""

import torch
from torch import Tensor

from xtra_toolkit.attention.pattern import Pattern

CHUNK = 4 << 20  # bytes of scores at a time: they stay in the cache, measured best of 1 to 16 MiB


def unsupported_reason(q: Tensor, pattern: Pattern) -> str | None:
    """Why this back end cannot serve these inputs; it always can."""
    return None


def attention(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern) -> Tensor:
    """(B, Q, heads, dim) in and out."""
    bias = None if pattern.kind == "full" else pattern.bias(q.dtype, q.device)
    return _Matmul.apply(q, k, v, bias)


class _Matmul(torch.autograd.Function):
    """A few images at a time, so that scores and weights stay in the cache between the products."""

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:  # noqa: ANN001
        ctx.scale = q.shape[-1] ** -0.5
        q, k, v = (x.transpose(1, 2).contiguous() for x in (q, k, v))
        out, weights = torch.empty_like(q), []
        for few in _chunks(q, k):
            weights.append(_scores(q[few], k[few], bias, few, ctx.scale).softmax(-1))
            torch.bmm(weights[-1], _flat(v[few]), out=_flat(out[few]))
        ctx.save_for_backward(q, k, v, *weights)
        return out.transpose(1, 2)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple:  # noqa: ANN001
        refuse_second_derivative("matmul")
        q, k, v, *weights = ctx.saved_tensors
        grad = grad.transpose(1, 2).contiguous()
        dq, dk, dv = (torch.empty_like(x) for x in (q, k, v))
        for few, w in zip(_chunks(q, k), weights, strict=True):
            g = _flat(grad[few])
            torch.bmm(w.mT, g, out=_flat(dv[few]))
            through = torch._softmax_backward_data(torch.bmm(g, _flat(v[few]).mT), w, -1, w.dtype)
            torch.bmm(through, _flat(k[few]), out=_flat(dq[few]))
            torch.bmm(through.mT, _flat(q[few]), out=_flat(dk[few]))
        dq, dk = dq.mul_(ctx.scale), dk.mul_(ctx.scale)
        return *(x.transpose(1, 2) for x in (dq, dk, dv)), None


def refuse_second_derivative(backend: str) -> None:
    """Called in a backward: RuntimeError where it is itself to be differentiated."""
    if torch.is_grad_enabled():
        raise RuntimeError(
            f"the {backend} back end has no second derivative (create_graph=True was given); take "
            "attention='eager'"
        )


def _chunks(q: Tensor, k: Tensor) -> list[slice]:
    size = q.shape[1] * q.shape[2] * k.shape[2] * q.element_size()
    few = max(1, CHUNK // size)
    return [slice(start, start + few) for start in range(0, len(q), few)]


def _scores(q: Tensor, k: Tensor, bias: Tensor | None, few: slice, scale: float) -> Tensor:
    if bias is None:
        nothing = q.new_zeros(1, 1, 1)
        return torch.baddbmm(nothing, _flat(q), _flat(k).mT, beta=0, alpha=scale)
    bias = bias if len(bias) == 1 else bias[few]
    bias = bias.expand(*q.shape[:3], k.shape[2]).flatten(0, 1)
    return torch.baddbmm(bias, _flat(q), _flat(k).mT, alpha=scale)


def _flat(x: Tensor) -> Tensor:
    return x.view(-1, *x.shape[2:])
