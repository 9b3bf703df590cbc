"""Attend by PyTorch's scaled_dot_product_attention, which runs on every device."""

import torch
import torch.nn.functional as F
from torch import Tensor

from xtra_toolkit.attention.pattern import Pattern


def unsupported_reason(q: Tensor, pattern: Pattern) -> str | None:
    """Return None: every input is supported."""
    return None


def attention(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern) -> Tensor:
    """Compute attention; (B, Q, heads, dim) in and out.

    Full and causal patterns need no mask. For the others a dense bias is computed once.
    """
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    if pattern.score_bias is not None:
        bias = pattern.score_bias.to(q.dtype)
        if pattern.kind != "full":
            bias = bias + pattern.bias(q.dtype, q.device)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        if torch.compiler.is_exporting():  # the ONNX exporter expects another memory layout here
            return out.transpose(1, 2).clone(memory_format=torch.contiguous_format)
    elif pattern.kind in ("full", "causal"):
        out = F.scaled_dot_product_attention(q, k, v, is_causal=pattern.kind == "causal")
    else:
        bias = pattern.bias(q.dtype, q.device)  # SDPA would convert a bool mask in each call
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    return out.transpose(1, 2)
