"""A key-value cache: only new positions are computed, and attend to all before them."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xtra_toolkit.attention import Pattern
from xtra_toolkit.models.layers import MaskedAttention


class KeyValueCache:
    """Attention of one layer that keeps all keys and values, (B, N so far, heads, dim)."""

    def __init__(self) -> None:
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, pattern: Pattern) -> Tensor:
        """Compute the outputs of n new positions, whose q, k and v are (B, n, heads, dim).

        They attend to all cached positions and to each other.
        """
        assert pattern.kind == "full", pattern.kind
        if self.keys is not None:
            k, v = torch.cat([self.keys, k], 1), torch.cat([self.values, v], 1)
        self.keys, self.values = k, v
        out = F.scaled_dot_product_attention(*(t.transpose(1, 2) for t in (q, k, v)))
        return out.transpose(1, 2)


@contextmanager
def cached(model: nn.Module) -> Iterator[None]:
    """Cache keys and values in all masked attention layers of a model within this context."""
    layers = [module for module in model.modules() if isinstance(module, MaskedAttention)]
    originals = [layer.attention for layer in layers]
    try:
        for layer in layers:
            layer.attention = KeyValueCache()
        yield
    finally:
        for layer, attention in zip(layers, originals, strict=True):
            layer.attention = attention
