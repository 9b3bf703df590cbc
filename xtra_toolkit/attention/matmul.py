"""Attend by two matrix products, for short sequences on a CPU that is fast in bfloat16.

With AMX or AVX-512 bf16, bfloat16 products are so fast that flash attention loses more time by
computing the weights again than it saves: at 240 tokens this back end is about twice as fast as
SDPA (make bench). It takes more memory: the attention weights are kept for the backward pass,
B x heads x Q x N values in each layer.
"""

import torch
from torch import Tensor

from xtra_toolkit.attention.pattern import Pattern

CHUNK_BYTES = 4 << 20  # of scores at a time, so that they stay in the cache; best of 1 to 16 MiB


def unsupported_reason(q: Tensor, pattern: Pattern) -> str | None:
    """Return None: every input is supported."""
    return None


def attention(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern) -> Tensor:
    """Compute attention; (B, Q, heads, dim) in and out."""
    bias = None if pattern.kind == "full" else pattern.bias(q.dtype, q.device)
    return _Matmul.apply(q, k, v, bias)


class _Matmul(torch.autograd.Function):
    """Process few images at a time, so that scores and weights stay in the cache."""

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:  # noqa: ANN001
        ctx.scale = q.shape[-1] ** -0.5
        q, k, v = (x.transpose(1, 2).contiguous() for x in (q, k, v))
        out, weights = torch.empty_like(q), []
        for chunk in _chunks(q, k):
            weights.append(_scores(q[chunk], k[chunk], bias, chunk, ctx.scale).softmax(-1))
            torch.bmm(weights[-1], _flat(v[chunk]), out=_flat(out[chunk]))
        ctx.save_for_backward(q, k, v, *weights)
        return out.transpose(1, 2)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple:  # noqa: ANN001
        refuse_second_derivative("matmul")
        q, k, v, *weights = ctx.saved_tensors
        grad = grad.transpose(1, 2).contiguous()
        dq, dk, dv = (torch.empty_like(x) for x in (q, k, v))
        for chunk, w in zip(_chunks(q, k), weights, strict=True):
            g = _flat(grad[chunk])
            torch.bmm(w.mT, g, out=_flat(dv[chunk]))
            dw = torch.bmm(g, _flat(v[chunk]).mT)
            dscores = torch._softmax_backward_data(dw, w, -1, w.dtype)
            torch.bmm(dscores, _flat(k[chunk]), out=_flat(dq[chunk]))
            torch.bmm(dscores.mT, _flat(q[chunk]), out=_flat(dk[chunk]))
        dq, dk = dq.mul_(ctx.scale), dk.mul_(ctx.scale)
        return *(x.transpose(1, 2) for x in (dq, dk, dv)), None


def refuse_second_derivative(backend: str) -> None:
    """Raise a RuntimeError in a backward pass that is to be differentiated itself."""
    if torch.is_grad_enabled():
        raise RuntimeError(
            f"the {backend} back end has no second derivative, and create_graph=True was given; "
            "set attention='eager'"
        )


def _chunks(q: Tensor, k: Tensor) -> list[slice]:
    image_bytes = q.shape[1] * q.shape[2] * k.shape[2] * q.element_size()
    images = max(1, CHUNK_BYTES // image_bytes)
    return [slice(start, start + images) for start in range(0, len(q), images)]


def _scores(q: Tensor, k: Tensor, bias: Tensor | None, chunk: slice, scale: float) -> Tensor:
    if bias is None:
        unused = q.new_zeros(1, 1, 1)
        return torch.baddbmm(unused, _flat(q), _flat(k).mT, beta=0, alpha=scale)
    bias = bias if len(bias) == 1 else bias[chunk]
    bias = bias.expand(*q.shape[:3], k.shape[2]).flatten(0, 1)
    return torch.baddbmm(bias, _flat(q), _flat(k).mT, alpha=scale)


def _flat(x: Tensor) -> Tensor:
    return x.view(-1, *x.shape[2:])
