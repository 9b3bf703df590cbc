"""FlexAttention: a kernel that torch compiles for the mask, and that skips blocks of 128 positions.

It is taken by name only (``attention='flex'``): ``auto`` does not choose it, since it was not yet
measured on a GPU. The first call compiles. On a CPU it has no backward pass.
"""

from functools import cache

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from xtra_toolkit.attention.pattern import Pattern


def unsupported_reason(q: Tensor, pattern: Pattern) -> str | None:
    """Return why this back end cannot serve these inputs, or None."""
    if q.device.type == "cpu" and q.requires_grad:
        return "FlexAttention has no backward pass on a CPU, so it cannot train there"
    return None if q.device.type in ("cpu", "cuda") else f"it has no kernel for {q.device.type}"


def attention(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern) -> Tensor:
    """Compute attention; (B, Q, heads, dim) in and out."""
    mask = pattern.cached(("flex", str(q.device)), lambda: block_mask(pattern, q.device))
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return _compiled()(q, k, v, block_mask=mask).transpose(1, 2)


def block_mask(pattern: Pattern, device: torch.device) -> BlockMask | None:
    """Return a pattern as a block mask of FlexAttention; None if all attend to all."""
    if pattern.kind == "full":
        return None
    shared = pattern.shared  # the kernel counts images also where the mask has none
    if pattern.kind == "dense":
        table = pattern.mask.to(device)
    elif pattern.kind == "causal":
        table = torch.arange(1, pattern.length + 1, device=device)[None]
    else:
        table = pattern.kv_lengths.to(device)
    table = table[0] if shared else table

    def may_attend(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        row = (q,) if shared else (b, q)  # torch 2.10 refuses a number beside the tensors
        return table[(*row, k)] if pattern.kind == "dense" else k < table[row]

    images, queries = None if shared else len(table), pattern.queries or pattern.length
    return create_block_mask(may_attend, images, None, queries, pattern.length, device=device)


@cache
def _compiled():  # noqa: ANN202
    return torch.compile(flex_attention)
