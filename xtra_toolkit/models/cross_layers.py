"""Layers whose queries attend to a memory, and not to each other (CrossMAE, arXiv 2401.14391).

Shape legend: B images, R queries, E positions of the memory, W width, M width of the memory.
"""

from collections.abc import Callable

import torch
from mmcv.cnn.bricks.transformer import FFN
from mmengine.model import BaseModule
from mmpretrain.models.utils import build_norm_layer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from xtra_toolkit.attention import Pattern


class CrossAttention(nn.Module):
    """Let queries attend to a memory, by the back ends of xtra_toolkit.attention.

    Args:
        width: Width of the queries.
        heads: Number of attention heads.
        memory_width: Width of the memory.
        attention: ``(q, k, v, pattern) -> out``, (B, R or E, heads, dim) each.
    """

    def __init__(self, width: int, heads: int, memory_width: int, attention: Callable[..., Tensor]):
        super().__init__()
        self.num_heads, self.head_dims, self.attention = heads, width // heads, attention
        self.q, self.kv = nn.Linear(width, width), nn.Linear(memory_width, 2 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, memory: Tensor, pattern: Pattern) -> Tensor:
        """Map queries (B, R, W) and a memory (B, E, M) to (B, R, W)."""
        shape = self.num_heads, self.head_dims
        k, v = self.kv(memory).unflatten(2, (2, *shape)).unbind(2)
        return self.proj(self.attention(self.q(x).unflatten(2, shape), k, v, pattern).flatten(2))


class CrossLayer(BaseModule):
    """Run :class:`CrossAttention` and an FFN, each after a norm and with a residual.

    Args:
        width, heads, memory_width, attention: See :class:`CrossAttention`.
        hidden: Hidden width of the FFN.
        norm_cfg: Config of the norms.
        with_cp: Whether only the input is kept, and the backward pass computes the rest again.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        memory_width: int,
        attention: Callable[..., Tensor],
        hidden: int,
        norm_cfg: dict,
        with_cp: bool = False,
    ):
        super().__init__()
        self.ln1 = build_norm_layer(norm_cfg, width)
        self.attn = CrossAttention(width, heads, memory_width, attention)
        self.ln2 = build_norm_layer(norm_cfg, width)
        self.ffn = FFN(width, hidden, act_cfg=dict(type="GELU"))
        self.with_cp = with_cp

    def init_weights(self) -> None:
        """Leave the initialisation to the ``init_cfg`` of the decoder."""

    def forward(self, x: Tensor, memory: Tensor, pattern: Pattern) -> Tensor:
        """Map queries (B, R, W) and a memory (B, E, M) to (B, R, W)."""
        if self.with_cp and torch.is_grad_enabled():
            return checkpoint(self._forward, x, memory, pattern, use_reentrant=False)
        return self._forward(x, memory, pattern)

    def _forward(self, x: Tensor, memory: Tensor, pattern: Pattern) -> Tensor:
        x = x + self.attn(self.ln1(x), memory, pattern)
        return self.ffn(self.ln2(x), identity=x)
