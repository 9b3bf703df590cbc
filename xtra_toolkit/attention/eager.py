"""The dense reference that all other back ends are tested against: three lines of algebra."""

import torch
from torch import Tensor

from xtra_toolkit.attention.pattern import Pattern


def unsupported_reason(q: Tensor, pattern: Pattern) -> str | None:
    """Why this back end cannot serve these inputs; it always can."""
    return None


def attention(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern) -> Tensor:
    """softmax(q kᵀ / √dim) v over what the pattern allows; (B, N, heads, dim) in and out."""
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) * q.shape[-1] ** -0.5
    scores = scores.masked_fill(~pattern.dense(q.device)[:, None], -torch.inf)
    return torch.einsum("bhqk,bkhd->bqhd", scores.softmax(dim=-1), v)
