"""Transformer layers that take an attention pattern, and the gathers that the models share."""

from collections.abc import Callable, Iterable

import torch
from mmengine.model import BaseModule
from mmpretrain.models.backbones.vision_transformer import TransformerEncoderLayer
from mmpretrain.models.utils import MultiheadAttention
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint

from xtra_toolkit.attention import Pattern
from xtra_toolkit.registry import WEIGHT_INITIALIZERS

# XTRA's: Linear trunc-normal 0.02, patch conv kaiming-normal fan-in, LayerNorm 1 and 0
INIT = [
    dict(type="TruncNormal", layer="Linear", std=0.02, bias=0.0),
    dict(type="Kaiming", layer="Conv2d", mode="fan_in", nonlinearity="relu", bias=0.0),
    dict(type="Constant", layer="LayerNorm", val=1.0, bias=0.0),
]


class MaskedAttention(MultiheadAttention):
    """MMPretrain's MultiheadAttention, its core replaced by the one call of this package."""

    attention: Callable[..., Tensor]

    def forward(
        self, x: Tensor, pattern: Pattern, output_positions: Tensor | None = None
    ) -> Tensor:
        """(B, N, D) to (B, N, D), or to (B, R, D) where only some positions are read."""
        q, k, v = self._all(x) if output_positions is None else self._some(x, output_positions)
        if output_positions is not None:
            pattern = pattern.cached(("rows",), lambda: pattern.rows(output_positions))
        x = self.attention(q, k, v, pattern).flatten(2)
        return self.out_drop(self.gamma1(self.proj_drop(self.proj(x))))

    def _all(self, x: Tensor) -> tuple[Tensor, ...]:
        """(B, N, D) to queries, keys and values of all positions, (B, N, heads, dim) each."""
        return self.qkv(x).unflatten(2, (3, self.num_heads, self.head_dims)).unbind(2)

    def _some(self, x: Tensor, output_positions: Tensor) -> tuple[Tensor, ...]:
        """The same with the queries of ``read`` (B or 1, R) alone, (B, R, heads, dim)."""
        sizes = self.embed_dims, 2 * self.embed_dims
        weight, bias = self.qkv.weight.split(sizes), (None, None)
        if self.qkv.bias is not None:
            bias = self.qkv.bias.split(sizes)
        shape = self.num_heads, self.head_dims
        k, v = linear(x, weight[1], bias[1]).unflatten(2, (2, *shape)).unbind(2)
        return (
            linear(gather_tokens(x, output_positions), weight[0], bias[0]).unflatten(2, shape),
            k,
            v,
        )


class MaskedLayer(TransformerEncoderLayer):
    """MMPretrain's pre-norm encoder layer with :class:`MaskedAttention`."""

    with_cp: bool

    @classmethod
    def of(
        cls,
        layer: TransformerEncoderLayer,
        attention: Callable[..., Tensor],
        with_cp: bool = False,
    ) -> "MaskedLayer":
        """A layer of MMPretrain's, with its parameters, made to follow a pattern.

        MMPretrain fixes the class of its layers and of their attention; what they are made of
        is right, and only ``forward`` lacks the pattern.

        Args:
            attention: ``(q, k, v, pattern) -> out``, (B, N, heads, dim) each.
            with_cp: of the forward pass only the input is kept; the backward computes the rest anew
                with the same random draws (activation checkpointing).
        """
        if layer.attn.attn_drop or layer.attn.v_shortcut:
            raise ValueError("attention dropout and v_shortcut are not supported; leave them unset")
        layer.__class__, layer.attn.__class__ = cls, MaskedAttention
        layer.attn.attention, layer.with_cp = attention, with_cp
        for path in layer.attn.out_drop, layer.ffn.dropout_layer:
            path.drop_prob = float(path.drop_prob)  # at a numpy number torch.compile stops
        return layer

    def init_weights(self) -> None:
        """As the whole model is initialised, not with MMPretrain's xavier for the FFN."""
        BaseModule.init_weights(self)

    def forward(
        self, x: Tensor, pattern: Pattern, output_positions: Tensor | None = None
    ) -> Tensor:
        """(B, N, D) to (B, N, D), or to (B, R, D) where only some positions are read."""
        if self.with_cp and torch.is_grad_enabled():
            return checkpoint(self._forward, x, pattern, output_positions, use_reentrant=False)
        return self._forward(x, pattern, output_positions)

    def _forward(self, x: Tensor, pattern: Pattern, output_positions: Tensor | None) -> Tensor:
        attended = self.attn(self.ln1(x), pattern, output_positions)
        x = attended + (x if output_positions is None else gather_tokens(x, output_positions))
        return self.ffn(self.ln2(x), identity=x)


class NoAttention(nn.Module):
    """In place of attention, for layers that keep to their token: AIM's head has such."""

    def forward(
        self, x: Tensor, pattern: Pattern, output_positions: Tensor | None = None
    ) -> Tensor:
        """(B, N, D) as it is, or what is read of it."""
        return x if output_positions is None else gather_tokens(x, output_positions)


def run_layers(
    layers: Iterable[nn.Module], x: Tensor, pattern: Pattern, output_positions: Tensor | None
) -> Tensor:
    """(B, N, D) through all layers; the last one computes the positions ``read`` alone.

    Nothing behind it looks at the others: loss and gradients are those of the full computation.

    Args:
        layers: of :class:`MaskedLayer`.
        x: (B, N, D).
        pattern: of attention over the N positions.
        read: (B or 1, R) positions, None: all.

    Returns:
        (B, R, D), or (B, N, D).
    """
    *before, last = layers or [NoAttention()]
    for layer in before:
        x = layer(x, pattern)
    return last(x, pattern, output_positions)


def drop_biases(layers: nn.Module) -> None:
    """Take the biases out of all Linears; norms keep theirs."""
    for module in layers.modules():
        if isinstance(module, nn.Linear):
            module.bias = None


@WEIGHT_INITIALIZERS.register_module()
class XavierPatch:
    """xavier_uniform_ of a patch convolution as the matrix product that it is (MAE, AIM).

    Its bias stays as torch draws it, as in both.
    """

    def __call__(self, module: nn.Module) -> None:
        """Initialise all Conv2d in ``module``."""
        for conv in module.modules():
            if isinstance(conv, nn.Conv2d):
                nn.init.xavier_uniform_(conv.weight.view(len(conv.weight), -1))


def gather_tokens(values: Tensor, index: Tensor) -> Tensor:
    """values (B or 1, N, D) at index (B or 1, E), (B or 1, E, D)."""
    if len(index) == 1:
        return values.index_select(1, index[0])
    if len(values) == 1:
        return nn.functional.embedding(index, values[0])
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))
