"""Attend within an ordered partition by flash kernels, without computing the masked area.

Query q of a staircase attends to a prefix of the sequence. Halving the rows again and again splits
the mask into full rectangles and small tiles on the diagonal. Each tile is one call of a flash
kernel. The outputs are merged by their log-sum-exp, and the backward pass gives each tile the final
output and log-sum-exp (FlashAttention-2, arXiv 2307.08691, section 3.1). The cost is proportional
to the number of True values of the mask.
"""

from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from xtra_toolkit.attention import xformers
from xtra_toolkit.attention.matmul import refuse_second_derivative
from xtra_toolkit.attention.pattern import Pattern

# On a CPU a tile of up to this many rows is not split further, but computed with a mask. It was the
# fastest of 128 to 512.
LEAF = 256


class Tile(NamedTuple):
    """Hold a tile of the mask: rows that attend to keys.

    ``kv_lengths`` is None if each row attends to all keys of the tile. In a leaf it tells to how
    many of them each row attends.
    """

    rows: slice
    keys: slice
    kv_lengths: tuple[int, ...] | None


def unsupported_reason(q: Tensor, pattern: Pattern) -> str | None:
    """Return why this back end cannot serve these inputs, or None."""
    if pattern.kind == "dense":
        return "the mask is no ordered partition, so its rows are no prefixes of the sequence"
    if pattern.kind == "staircase" and pattern.host_kv_lengths is None:
        return (
            "to how many positions a row attends differs between images, or is not known on the "
            "host for the rows that are computed"
        )
    if q.device.type == "cuda":
        return xformers.unsupported_reason(q, Pattern("full", q.shape[1]))
    return None if q.device.type == "cpu" else f"it has no kernel for {q.device.type}"


def attention(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern) -> Tensor:
    """Compute attention; (B, Q, heads, dim) in and out."""
    cuda = q.device.type == "cuda"
    leaf = 1 if cuda else LEAF
    tiles = pattern.cached(("tiles", cuda), lambda: split(kv_lengths_on_host(pattern), leaf))
    masks = pattern.cached(
        ("leaves", q.dtype, q.device),
        lambda: [_bias(tile.kv_lengths, q.dtype, q.device) for tile in tiles],
    )
    return _Staircase.apply(q, k, v, tiles, masks, XFormers if cuda else FlashCPU)


def kv_lengths_on_host(pattern: Pattern) -> tuple[int, ...]:
    """Return to how many positions each row attends."""
    rows, n = pattern.queries or pattern.length, pattern.length
    if pattern.kind == "full":
        return (n,) * rows
    return tuple(range(1, n + 1)) if pattern.kind == "causal" else pattern.host_kv_lengths


@cache  # a random order has a new pattern in each step, but always the same kv lengths
def split(kv_lengths: tuple[int, ...], leaf: int) -> list[Tile]:
    """Split a staircase into tiles. Tiles that begin with the first key come first.

    Args:
        kv_lengths: To how many positions each row attends, never decreasing.
        leaf: Largest number of rows of a tile with a mask; with 1 no tile has a mask.
    """
    return sorted(_split(kv_lengths, leaf, 0, len(kv_lengths), 0), key=lambda tile: tile.keys.start)


def _split(kv_lengths: tuple[int, ...], leaf: int, top: int, end: int, base: int) -> Iterator[Tile]:
    """Yield the tiles of rows ``top`` to ``end`` over the keys from ``base`` on."""
    while top < end and kv_lengths[top] == base:
        top += 1
    if top == end:
        return
    rows = slice(top, end)
    if kv_lengths[top] == kv_lengths[end - 1]:
        yield Tile(rows, slice(base, kv_lengths[top]), None)
    elif end - top <= leaf:
        inner = tuple(length - base for length in kv_lengths[rows])
        yield Tile(rows, slice(base, kv_lengths[end - 1]), inner)
    else:
        steps = [row for row in range(top + 1, end) if kv_lengths[row] > kv_lengths[row - 1]]
        # torch 2.10 cannot compile min with a key
        half = sorted(steps, key=lambda row: abs(2 * row - top - end))[0]
        yield Tile(slice(half, end), slice(base, kv_lengths[half]), None)
        yield from _split(kv_lengths, leaf, top, half, base)
        yield from _split(kv_lengths, leaf, half, end, kv_lengths[half])


@cache  # most leaves of a mask are equal
def _bias(
    kv_lengths: tuple[int, ...] | None, dtype: torch.dtype, device: torch.device
) -> Tensor | None:
    """Return the bias of a leaf, (rows, keys), 0 or -inf; None for a tile without a mask."""
    if kv_lengths is None:
        return None
    mask = torch.arange(kv_lengths[-1]) < torch.tensor(kv_lengths)[:, None]
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, -torch.inf).to(device)


class _Staircase(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, tiles, masks, kernel) -> Tensor:  # noqa: ANN001
        out = torch.empty_like(q, memory_format=torch.contiguous_format)
        lse = q.new_empty(q.shape[:-1], dtype=torch.promote_types(q.dtype, torch.float32))
        for tile, mask in zip(tiles, masks, strict=True):
            rows, keys = tile.rows, tile.keys
            tile_out, tile_lse = kernel.forward(q[:, rows], k[:, keys], v[:, keys], mask)
            rows_out, rows_lse = out[:, rows], lse[:, rows]
            if keys.start == 0:  # the first tile of these rows
                rows_out.copy_(tile_out)
                rows_lse.copy_(tile_lse)
            else:
                merged = torch.logaddexp(rows_lse, tile_lse)
                rows_out.mul_(_weight(rows_lse, merged, q))
                rows_out.addcmul_(tile_out, _weight(tile_lse, merged, q))
                rows_lse.copy_(merged)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.tiles, ctx.masks, ctx.kernel = tiles, masks, kernel
        return out

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple:  # noqa: ANN001
        refuse_second_derivative("staircase")
        q, k, v, out, lse = ctx.saved_tensors
        dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for tile, mask in zip(ctx.tiles, ctx.masks, strict=True):
            rows, keys = tile.rows, tile.keys
            tile_dq, tile_dk, tile_dv = ctx.kernel.backward(
                grad[:, rows], q[:, rows], k[:, keys], v[:, keys], out[:, rows], lse[:, rows], mask
            )
            dq[:, rows] += tile_dq
            dk[:, keys] += tile_dk
            dv[:, keys] += tile_dv
        return dq, dk, dv, None, None, None


def _weight(lse: Tensor, merged: Tensor, like: Tensor) -> Tensor:
    return (lse - merged).exp_()[..., None].to(like.dtype)


class FlashCPU:
    """Call torch's flash kernel for CPUs.

    Tensors are (B, N, heads, dim); the log-sum-exp is (B, N, heads) in float32.
    """

    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the output and the log-sum-exp of a tile."""
        q, k, v = _heads_first(q), _heads_first(k), _heads_first(v)
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, attn_mask=mask
        )
        return out.transpose(1, 2), lse.transpose(1, 2)

    @staticmethod
    def backward(
        grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, ...]:
        """Return the gradients of q, k and v that a tile contributes."""
        grad, q, k, v, out = [_heads_first(x) for x in (grad, q, k, v, out)]
        gradients = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad, q, k, v, out, lse.transpose(1, 2).contiguous(), 0.0, False, attn_mask=mask
        )
        return tuple(x.transpose(1, 2) for x in gradients)


def _heads_first(x: Tensor) -> Tensor:
    x = x if x.stride(-1) == 1 else x.contiguous()  # the kernel does not check this
    return x.transpose(1, 2)


class XFormers:
    """Call the flash ops of xformers on CUDA. They take no mask, so no tile may have one."""

    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor, mask: None) -> tuple[Tensor, Tensor]:
        """See :meth:`FlashCPU.forward`."""
        fmha = xformers.load().fmha
        out, lse = fmha.memory_efficient_attention_forward_requires_grad(q, k, v)
        return out, lse[..., : q.shape[1]].transpose(1, 2)  # cutlass pads the log-sum-exp

    @staticmethod
    def backward(
        grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, mask: None
    ) -> tuple[Tensor, ...]:
        """See :meth:`FlashCPU.backward`."""
        fmha = xformers.load().fmha
        lse = lse.transpose(1, 2).contiguous()
        return fmha.memory_efficient_attention_backward(grad, out, lse, q, k, v)
