"""Staircase attention: an ordered partition through flash kernels, without its empty half.

Position q of a staircase reads a prefix of the sequence. Halving the rows splits it into
rectangles that are read whole, and what is left on the diagonal. Each part is one call of a flash
kernel; the outputs are merged by their log-sum-exp, and backward gives each part the final output
and log-sum-exp (FlashAttention-2, arXiv 2307.08691, section 3.1). Cost grows like the mask's area.
"""

from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from xtra_toolkit.attention import xformers
from xtra_toolkit.attention.matmul import refuse_second_derivative
from xtra_toolkit.attention.pattern import Pattern

# Rows of a part that is not split further, and then needs a mask, on a CPU: measured, of 128 to 512
LEAF = 256


class Tile(NamedTuple):
    """Some rows read some keys, each all of them or, in a leaf, the first ``sees`` each."""

    rows: slice
    keys: slice
    kv_lengths: tuple[int, ...] | None


def unsupported_reason(q: Tensor, pattern: Pattern) -> str | None:
    """Why this back end cannot serve these inputs."""
    if pattern.kind == "dense":
        return "the mask is no ordered partition, so its rows are no prefixes"
    if pattern.kind == "staircase" and pattern.host_kv_lengths is None:
        return "how far a row reads differs between images, or only some rows are wanted"
    if q.device.type == "cuda":
        return _cuda_unsupported_reason(q)
    return None if q.device.type == "cpu" else f"it has no kernel for {q.device.type}"


def attention(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern) -> Tensor:
    """(B, Q, heads, dim) in and out."""
    cuda = q.device.type == "cuda"
    parts = pattern.once(
        ("parts", cuda), lambda: split(kv_lengths_on_host(pattern), 1 if cuda else LEAF)
    )
    masks = pattern.once(
        ("leaves", q.dtype, q.device),
        lambda: [_bias(p.kv_lengths, q.dtype, q.device) for p in parts],
    )
    return _Staircase.apply(q, k, v, parts, masks, XFormers if cuda else FlashCPU)


def kv_lengths_on_host(pattern: Pattern) -> tuple[int, ...]:
    """How many positions each row reads."""
    rows, n = pattern.queries or pattern.length, pattern.length
    if pattern.kind == "full":
        return (n,) * rows
    return tuple(range(1, n + 1)) if pattern.kind == "causal" else pattern.host_kv_lengths


@cache  # a random order has a pattern of its own in each step, and the same stairs in all
def split(kv_lengths: tuple[int, ...], leaf: int) -> list[Tile]:
    """The parts of a staircase, those that begin with the first key first.

    Args:
        sees: how many positions each row reads, never decreasing.
        leaf: at most so many rows make a part with a mask; 1: none does.
    """
    return sorted(_split(kv_lengths, leaf, 0, len(kv_lengths), 0), key=lambda part: part.keys.start)


def _split(kv_lengths: tuple[int, ...], leaf: int, top: int, end: int, base: int) -> Iterator[Tile]:
    """The parts of rows top to end, which have read the first ``base`` positions already."""
    while top < end and kv_lengths[top] == base:
        top += 1
    if top == end:
        return
    rows = slice(top, end)
    if kv_lengths[top] == kv_lengths[end - 1]:
        yield Tile(rows, slice(base, kv_lengths[top]), None)
    elif end - top <= leaf:
        own = tuple(s - base for s in kv_lengths[rows])
        yield Tile(rows, slice(base, kv_lengths[end - 1]), own)
    else:
        steps = (row for row in range(top + 1, end) if kv_lengths[row] > kv_lengths[row - 1])
        half = min(steps, key=lambda row: abs(2 * row - top - end))
        yield Tile(slice(half, end), slice(base, kv_lengths[half]), None)
        yield from _split(kv_lengths, leaf, top, half, base)
        yield from _split(kv_lengths, leaf, half, end, kv_lengths[half])


@cache  # most leaves of a mask are alike
def _bias(
    kv_lengths: tuple[int, ...] | None, dtype: torch.dtype, device: torch.device
) -> Tensor | None:
    """(rows, keys) 0 or -inf of a leaf."""
    if kv_lengths is None:
        return None
    seen = torch.arange(kv_lengths[-1]) < torch.tensor(kv_lengths)[:, None]
    return torch.zeros_like(seen, dtype=dtype).masked_fill_(~seen, -torch.inf).to(device)


class _Staircase(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, parts, masks, kernel) -> Tensor:  # noqa: ANN001
        out = torch.empty_like(q, memory_format=torch.contiguous_format)
        lse = q.new_empty(q.shape[:-1], dtype=torch.promote_types(q.dtype, torch.float32))
        for part, mask in zip(parts, masks, strict=True):
            rows, keys = part.rows, part.keys
            piece, own = kernel.forward(q[:, rows], k[:, keys], v[:, keys], mask)
            so_far, its = out[:, rows], lse[:, rows]
            if keys.start == 0:  # the first part of its rows
                so_far.copy_(piece)
                its.copy_(own)
            else:
                both = torch.logaddexp(its, own)
                so_far.mul_(_share(its, both, q)).addcmul_(piece, _share(own, both, q))
                its.copy_(both)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.parts, ctx.masks, ctx.kernel = parts, masks, kernel
        return out

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple:  # noqa: ANN001
        refuse_second_derivative("staircase")
        q, k, v, out, lse = ctx.saved_tensors
        dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for part, mask in zip(ctx.parts, ctx.masks, strict=True):
            rows, keys = part.rows, part.keys
            of_q, of_k, of_v = ctx.kernel.backward(
                grad[:, rows], q[:, rows], k[:, keys], v[:, keys], out[:, rows], lse[:, rows], mask
            )
            dq[:, rows] += of_q
            dk[:, keys] += of_k
            dv[:, keys] += of_v
        return dq, dk, dv, None, None, None


def _share(own: Tensor, both: Tensor, like: Tensor) -> Tensor:
    return (own - both).exp_()[..., None].to(like.dtype)


class FlashCPU:
    """torch's flash kernel for the CPU. Tensors (B, N, heads, dim), lse (B, N, heads) float32."""

    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Output and log-sum-exp of a part."""
        q, k, v = _heads_first(q), _heads_first(k), _heads_first(v)
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, attn_mask=mask
        )
        return out.transpose(1, 2), lse.transpose(1, 2)

    @staticmethod
    def backward(
        grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, ...]:
        """What a part adds to the gradients of q, k and v."""
        grad, q, k, v, out = [_heads_first(x) for x in (grad, q, k, v, out)]
        gradients = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad, q, k, v, out, lse.transpose(1, 2).contiguous(), 0.0, False, attn_mask=mask
        )
        return tuple(x.transpose(1, 2) for x in gradients)


def _heads_first(x: Tensor) -> Tensor:
    x = x if x.stride(-1) == 1 else x.contiguous()  # the kernel does not ask
    return x.transpose(1, 2)


class XFormers:
    """xformers' flash ops on CUDA; parts without a mask, which they do not take."""

    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor, mask: None) -> tuple[Tensor, Tensor]:
        """As :meth:`FlashCPU.forward`."""
        fmha = xformers.load().fmha
        out, lse = fmha.memory_efficient_attention_forward_requires_grad(q, k, v)
        return out, lse[..., : q.shape[1]].transpose(1, 2)  # cutlass pads it

    @staticmethod
    def backward(
        grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, mask: None
    ) -> tuple[Tensor, ...]:
        """As :meth:`FlashCPU.backward`."""
        fmha = xformers.load().fmha
        lse = lse.transpose(1, 2).contiguous()
        return fmha.memory_efficient_attention_backward(grad, out, lse, q, k, v)


def _cuda_unsupported_reason(q: Tensor) -> str | None:
    whole = Pattern("full", q.shape[1])
    return xformers.unsupported_reason(q, whole)
