"""Run transformer layers under an attention pattern."""

from collections.abc import Callable, Iterable

import torch
from mmengine.model import BaseModule
from mmpretrain.models.backbones.vision_transformer import TransformerEncoderLayer
from mmpretrain.models.utils import MultiheadAttention
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint

from xtra_toolkit.attention import Pattern
from xtra_toolkit.models.layer_fusion import LayerFusion
from xtra_toolkit.models.layer_parts import LayerParts
from xtra_toolkit.models.rotary import Rotation
from xtra_toolkit.registry import WEIGHT_INITIALIZERS

# the initialisation of XTRA
INIT = [
    dict(type="TruncNormal", layer="Linear", std=0.02, bias=0.0),
    dict(type="Kaiming", layer="Conv2d", mode="fan_in", nonlinearity="relu", bias=0.0),
    dict(type="Constant", layer="LayerNorm", val=1.0, bias=0.0),
]


class MaskedAttention(MultiheadAttention):
    """Compute MMPretrain's MultiheadAttention with the back ends of xtra_toolkit.attention."""

    attention: Callable[..., Tensor]
    q_norm: nn.Module | None
    k_norm: nn.Module | None

    def forward(
        self,
        x: Tensor,
        pattern: Pattern,
        output_positions: Tensor | None = None,
        rotation: Rotation | None = None,
    ) -> Tensor:
        """Map (B, N, D) to (B, N, D), or to (B, R, D) at the output positions (B or 1, R)."""
        if output_positions is None:
            q, k, v = self._project(x)
        else:
            q, k, v = self._project_some_queries(x, output_positions)
            pattern = pattern.cached_rows(output_positions)
        if self.q_norm is not None:
            q, k = self.q_norm(q).to(v.dtype), self.k_norm(k).to(v.dtype)
        if rotation is not None:
            q, k = rotation.rows(output_positions)(q), rotation(k)
        x = self.attention(q, k, v, pattern).flatten(2)
        return self.out_drop(self.gamma1(self.proj_drop(self.proj(x))))

    def _project(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute the queries, keys and values of all positions, (B, N, heads, dim) each."""
        return self.qkv(x).unflatten(2, (3, self.num_heads, self.head_dims)).unbind(2)

    def _project_some_queries(self, x: Tensor, positions: Tensor) -> tuple[Tensor, ...]:
        """Compute queries (B, R, heads, dim) of some positions, and all keys and values."""
        sizes = self.embed_dims, 2 * self.embed_dims
        weight, bias = self.qkv.weight.split(sizes), (None, None)
        if self.qkv.bias is not None:
            bias = self.qkv.bias.split(sizes)
        shape = self.num_heads, self.head_dims
        k, v = linear(x, weight[1], bias[1]).unflatten(2, (2, *shape)).unbind(2)
        q = linear(gather_tokens(x, positions), weight[0], bias[0]).unflatten(2, shape)
        return q, k, v


class MaskedLayer(TransformerEncoderLayer):
    """Run MMPretrain's pre-norm encoder layer with :class:`MaskedAttention`."""

    with_cp: bool

    @classmethod
    def convert(
        cls,
        layer: TransformerEncoderLayer,
        attention: Callable[..., Tensor],
        with_cp: bool = False,
        parts: LayerParts | None = None,
    ) -> "MaskedLayer":
        """Convert a layer of MMPretrain in place and return it.

        MMPretrain's models create their layers of a fixed class. The modules in them are right;
        only ``forward`` must take a pattern, so the classes of the layer and of its attention are
        replaced.

        Args:
            layer: The layer.
            attention: ``(q, k, v, pattern) -> out``, (B, N, heads, dim) each.
            with_cp: Whether only the input of the forward pass is kept, and the backward pass
                computes the rest again with the same random numbers (activation checkpointing).
            parts: What the layer has beside MMPretrain's. None: nothing.

        Raises:
            ValueError: The layer has attention dropout or ``v_shortcut``.
        """
        if layer.attn.attn_drop or layer.attn.v_shortcut:
            raise ValueError("attention dropout and v_shortcut are not supported; leave them unset")
        layer.__class__, layer.attn.__class__ = cls, MaskedAttention
        layer.attn.attention, layer.with_cp = attention, with_cp
        layer.attn.q_norm = layer.attn.k_norm = None
        if parts is not None:
            parts.equip(layer)
        for path in layer.attn.out_drop, layer.ffn.dropout_layer:
            path.drop_prob = float(path.drop_prob)  # torch.compile does not support numpy numbers
        return layer

    def init_weights(self) -> None:
        """Initialise by the model's ``init_cfg``, without MMPretrain's xavier for the FFN."""
        BaseModule.init_weights(self)

    def forward(
        self,
        x: Tensor,
        pattern: Pattern,
        output_positions: Tensor | None = None,
        rotation: Rotation | None = None,
    ) -> Tensor:
        """Map (B, N, D) to (B, N, D), or to (B, R, D) at the output positions (B or 1, R).

        Queries and keys are turned by ``rotation``, if it is given.
        """
        args = x, pattern, output_positions, rotation
        if self.with_cp and torch.is_grad_enabled():
            return checkpoint(self._forward, *args, use_reentrant=False)
        return self._forward(*args)

    def _forward(
        self,
        x: Tensor,
        pattern: Pattern,
        output_positions: Tensor | None,
        rotation: Rotation | None,
    ) -> Tensor:
        attended = self.attn(self.ln1(x), pattern, output_positions, rotation)
        x = attended + (x if output_positions is None else gather_tokens(x, output_positions))
        return self.ffn(self.ln2(x), identity=x)


class NoAttention(nn.Module):
    """Replace the attention of layers that process each token alone, as in the head of AIM."""

    def forward(
        self,
        x: Tensor,
        pattern: Pattern,
        output_positions: Tensor | None = None,
        rotation: Rotation | None = None,
    ) -> Tensor:
        """Return (B, N, D) as it is, or (B, R, D) at the output positions (B or 1, R)."""
        return x if output_positions is None else gather_tokens(x, output_positions)


def run_layers(
    layers: Iterable[nn.Module],
    x: Tensor,
    pattern: Pattern,
    output_positions: Tensor | None,
    rotation: Rotation | None = None,
    fusion: LayerFusion | None = None,
) -> Tensor:
    """Run all layers; the last one computes only the output positions.

    Nothing reads the other positions after it, so loss and gradients are those of the full
    computation.

    Args:
        layers: Layers of :class:`MaskedLayer`; there may be none.
        x: (B, N, D) inputs.
        pattern: Attention over the N positions.
        output_positions: (B or 1, R) positions whose outputs are returned. None: all.
        rotation: The rotary positions of the N positions. None: there are none.
        fusion: Adds the outputs of earlier layers to those of the last one. None: nothing does.

    Returns:
        (B, R, D), or (B, N, D).
    """
    *first, last = layers or [NoAttention()]
    earlier = []
    for i, layer in enumerate(first):
        x = layer(x, pattern, None, rotation)
        if fusion is not None and i in fusion.indices:
            earlier.append(x if output_positions is None else gather_tokens(x, output_positions))
    x = last(x, pattern, output_positions, rotation)
    return x if fusion is None else fusion([*earlier, x])


def drop_biases(layers: nn.Module) -> None:
    """Remove the biases of all Linear layers. Norms keep theirs."""
    for module in layers.modules():
        if isinstance(module, nn.Linear):
            module.bias = None


@WEIGHT_INITIALIZERS.register_module()
class XavierPatch:
    """Initialise a patch convolution by xavier_uniform_ as a matrix (MAE, AIM).

    Its bias keeps torch's initialisation, as in both.
    """

    def __call__(self, module: nn.Module) -> None:
        """Initialise all Conv2d in ``module``."""
        for conv in module.modules():
            if isinstance(conv, nn.Conv2d):
                nn.init.xavier_uniform_(conv.weight.view(len(conv.weight), -1))


def gather_tokens(values: Tensor, index: Tensor) -> Tensor:
    """Gather values (B or 1, N, D) at index (B or 1, E); return (B or 1, E, D)."""
    if len(index) == 1:
        return values.index_select(1, index[0])
    if len(values) == 1:
        return nn.functional.embedding(index, values[0])
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))
