"""Transformer layers that take an attention pattern, and the gathers that the models share."""

from collections.abc import Callable

from mmengine.model import BaseModule
from mmpretrain.models.backbones.vision_transformer import TransformerEncoderLayer
from mmpretrain.models.utils import MultiheadAttention
from torch import Tensor, nn

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

    def forward(self, x: Tensor, pattern: Pattern) -> Tensor:
        """(B, N, D) to (B, N, D)."""
        b, n, _ = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.num_heads, self.head_dims).unbind(2)
        x = self.attention(q, k, v, pattern).reshape(b, n, self.embed_dims)
        return self.out_drop(self.gamma1(self.proj_drop(self.proj(x))))


class MaskedLayer(TransformerEncoderLayer):
    """MMPretrain's pre-norm encoder layer with :class:`MaskedAttention`."""

    @classmethod
    def of(cls, layer: TransformerEncoderLayer, attention: Callable[..., Tensor]) -> "MaskedLayer":
        """A layer of MMPretrain's, with its parameters, made to follow a pattern.

        MMPretrain fixes the class of its layers and of their attention; what they are made of
        is right, and only ``forward`` lacks the pattern.

        Args:
            attention: ``(q, k, v, pattern) -> out``, (B, N, heads, dim) each.
        """
        if layer.attn.attn_drop or layer.attn.v_shortcut:
            raise ValueError("attention dropout and v_shortcut are not supported; leave them unset")
        layer.__class__, layer.attn.__class__ = cls, MaskedAttention
        layer.attn.attention = attention
        return layer

    def init_weights(self) -> None:
        """As the whole model is initialised, not with MMPretrain's xavier for the FFN."""
        BaseModule.init_weights(self)

    def forward(self, x: Tensor, pattern: Pattern) -> Tensor:
        """(B, N, D) to (B, N, D)."""
        x = x + self.attn(self.ln1(x), pattern)
        return self.ffn(self.ln2(x), identity=x)


class NoAttention(nn.Module):
    """In place of attention, for layers that keep to their token: AIM's head has such."""

    def forward(self, x: Tensor, pattern: Pattern) -> Tensor:
        """(B, N, D) as it is."""
        return x


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


def take(values: Tensor, index: Tensor) -> Tensor:
    """values (B or 1, N, D) at index (B or 1, E), (B or 1, E, D)."""
    if len(index) == 1:
        return values.index_select(1, index[0])
    if len(values) == 1:
        return nn.functional.embedding(index, values[0])
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))
