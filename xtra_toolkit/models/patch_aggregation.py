"""PatchAggregation: the neck of BEiT v2, which reads the encoder at two depths.

Shape legend: B images, E encoded positions, R output positions, D width of the encoder.
"""

from collections.abc import Sequence

import torch
from mmengine.model import ModuleList
from mmpretrain.models.backbones.vision_transformer import TransformerEncoderLayer
from mmpretrain.models.utils import build_norm_layer
from torch import Tensor

from xtra_toolkit.attention import Pattern, get_attention
from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.models.decoder import Decoder
from xtra_toolkit.models.layer_parts import split_layer_cfgs
from xtra_toolkit.models.layers import INIT, MaskedLayer, gather_tokens, run_layers
from xtra_toolkit.models.loading import refuse_other_shapes
from xtra_toolkit.objective.plan import Plan
from xtra_toolkit.registry import MODELS


@MODELS.register_module()
class PatchAggregation(Decoder):
    """Join the last layer's class token to an earlier layer's patches, and run a few more layers.

    The class token must then hold what the patches lack (BEiT v2, arXiv 2208.06366). The output at
    a position is that of the encoder's last layer and that of these layers, one after the other,
    each after the same norm: a :class:`SharedHead` of two copies predicts from both.

    The layers attend as the encoder does, with its relative positions if it has some; they have no
    rotary positions. The encoder has ``final_norm=False`` and ``mask_tokens=True``.

    Args:
        memory_layers: The earlier layer and the last one, for instance [9, 12] of 12 layers.
        depth: Number of layers.
        heads: Number of attention heads.
        layer_cfgs: See :class:`ViTDecoder`.
        norm_eps: Epsilon of all LayerNorms.
        attention: Back end, see :func:`xtra_toolkit.attention.attention`.
        with_cp: See :class:`MaskedViT`.
        in_channels: Width of the encoder. The pretrainer sets this and the arguments below.
        grid: The grid of the images.
        has_masked_tokens: Whether hidden tokens are left out of the encoder, which is refused.
        positioned: Whether sources are told the positions of their targets, which is refused.

    Raises:
        ValueError: The arguments fit no encoder, or hidden tokens are left out of it.
    """

    follows_decoder_mask = False  # but the encoder's

    def __init__(
        self,
        memory_layers: Sequence[int],
        depth: int,
        heads: int,
        layer_cfgs: dict | list | None = None,
        norm_eps: float = 1e-6,
        attention: str = "auto",
        with_cp: bool = False,
        *,
        in_channels: int,
        grid: PatchGrid,
        has_masked_tokens: bool,
        positioned: bool = False,
        init_cfg: list | dict | None = None,
    ):
        super().__init__(init_cfg or INIT)
        if len(memory_layers) != 2 or depth < 1 or heads < 1 or in_channels % heads:
            raise ValueError(
                f"memory_layers={list(memory_layers)}, depth={depth} and heads={heads} were given; "
                "PatchAggregation reads two layers, the last one second, and has a layer or more, "
                f"whose heads divide the width {in_channels}"
            )
        if has_masked_tokens or positioned or not grid.placed:
            raise ValueError(
                "PatchAggregation needs mask tokens and a class token in the encoder, and a target "
                "without positions of its own; set backbone.mask_tokens=True and "
                "with_cls_token=True"
            )
        self.grid, self.memory_layers = grid, tuple(memory_layers)
        self.width, self.num_layers = 2 * in_channels, depth
        norm = dict(type="LN", eps=norm_eps)
        shape = dict(embed_dims=in_channels, num_heads=heads, norm_cfg=norm)
        shape["feedforward_channels"] = 4 * in_channels
        cfgs, parts = split_layer_cfgs(layer_cfgs or {}, depth)
        self.layers = ModuleList(
            MaskedLayer.convert(
                TransformerEncoderLayer(**shape | cfg), get_attention(attention), with_cp, part
            )
            for cfg, part in zip(cfgs, parts, strict=True)
        )
        self._register_load_state_dict_pre_hook(refuse_other_shapes, with_module=True)
        self.ln1 = build_norm_layer(norm, in_channels)

    def pattern(self, plan: Plan) -> Pattern:
        """Return the attention over the E encoded positions."""
        return plan.encoder

    def forward(self, x: Sequence[Tensor], plan: Plan) -> Tensor:
        """Return (B, R, 2 * D) at the positions that the head reads.

        Args:
            x: The embedded tokens and the outputs of all layers of the encoder, (B, E, D) each.
            plan: The plan of the batch. Its ``encoder`` holds the encoder's relative positions.
        """
        early, last = (x[i] for i in self.memory_layers)
        joined = torch.where((plan.encoded_tokens >= self.grid.tokens)[..., None], last, early)
        rows = plan.output_positions
        joined = run_layers(self.layers, joined, self.pattern(plan), rows)
        last = last if rows is None else gather_tokens(last, rows)
        return torch.cat([self.ln1(last), self.ln1(joined)], dim=-1)
