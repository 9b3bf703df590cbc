"""PyTorch's scaled_dot_product_attention: runs everywhere."""

import torch.nn.functional as F
from torch import Tensor

from xtra_toolkit.attention.pattern import Pattern


def unsupported_reason(q: Tensor, pattern: Pattern) -> str | None:
    """Why this back end cannot serve these inputs; it always can."""
    return None


def attention(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern) -> Tensor:
    """Full and causal patterns go without a mask, others with a dense one, made once."""
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    if pattern.kind in ("full", "causal"):
        out = F.scaled_dot_product_attention(q, k, v, is_causal=pattern.kind == "causal")
    else:
        bias = pattern.bias(q.dtype, q.device)  # of a bool one SDPA would make this in each call
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    return out.transpose(1, 2)
