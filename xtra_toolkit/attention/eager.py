"""Compute attention densely, as the reference against which all other back ends are tested."""

import torch
from torch import Tensor

from xtra_toolkit.attention.pattern import Pattern


def unsupported_reason(q: Tensor, pattern: Pattern) -> str | None:
    """Return None: every input is supported."""
    return None


def attention(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern) -> Tensor:
    """Compute softmax(q kᵀ / √dim) v under the pattern; (B, N, heads, dim) in and out."""
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) * q.shape[-1] ** -0.5
    if pattern.score_bias is not None:
        scores = scores + pattern.score_bias.to(scores.dtype)
    scores = scores.masked_fill(~pattern.dense(q.device)[:, None], -torch.inf)
    return torch.einsum("bhqk,bkhd->bqhd", scores.softmax(dim=-1), v)
