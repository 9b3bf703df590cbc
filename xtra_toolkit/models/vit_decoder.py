"""ViTDecoder: the neck. It has a projection, position embeddings of its own and masked layers.

Shape legend: B images, C computed positions, E encoded ones, R output positions, D width of the
encoder, W width of the decoder.
"""

import torch
from mmengine.model import ModuleList
from mmengine.model.weight_init import trunc_normal_
from mmpretrain.models.backbones.vision_transformer import TransformerEncoderLayer
from mmpretrain.models.utils import build_norm_layer
from torch import Tensor, nn

from xtra_toolkit.attention import get_attention
from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.models.decoder import Decoder
from xtra_toolkit.models.layer_parts import split_layer_cfgs
from xtra_toolkit.models.layers import (
    INIT,
    MaskedLayer,
    NoAttention,
    drop_biases,
    gather_tokens,
    run_layers,
)
from xtra_toolkit.models.loading import refuse_other_shapes
from xtra_toolkit.models.positions import by_token, check_positions, position_table
from xtra_toolkit.models.rotary import RotaryPositions, Rotation
from xtra_toolkit.objective.plan import Plan
from xtra_toolkit.registry import MODELS


@MODELS.register_module()
class ViTDecoder(Decoder):
    """Decode as XTRA and MAE do, or as the head of AIM.

    Args:
        width: Width of the layers.
        depth: Number of layers.
        heads: Number of attention heads. None: the layers have no attention and process each token
            alone (AIM).
        projection: Hidden width of the MLP from the encoder's width to ``width``, whose output
            layer has no bias (XTRA). None: a single Linear layer with bias (MAE, AIM).
        positions: 'learned', 'sincos' for fixed ones (MAE, AIM), or 'none' (AIMv2; with ``rope``
            if there are mask tokens).
        bias: Whether the Linear layers in all layers have a bias (not in AIM).
        norm_eps: Epsilon of all LayerNorms.
        norm_cfg: Config of all norms, in place of LayerNorms of ``norm_eps``.
        rope, layer_cfgs: See :class:`MaskedViT`. ``layer_cfgs`` may set ``feedforward_channels``,
            which is 4 × ``width`` by default.
        attention: Back end, see :func:`xtra_toolkit.attention.attention`.
        with_cp: See :class:`MaskedViT`.
        in_channels: Width of the encoder. The pretrainer sets this and the arguments below.
        grid: The grid of the images.
        has_masked_tokens: Whether the mask hides tokens; the decoder then has a mask token.
        positioned: Whether sources are told the positions of their targets; the decoder then has a
            table of embeddings for that.

    Raises:
        ValueError: ``heads`` does not divide ``width``, or ``depth`` is below 0.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int | None,
        projection: int | None = None,
        positions: str = "learned",
        bias: bool = True,
        norm_eps: float = 1e-6,
        attention: str = "auto",
        with_cp: bool = False,
        norm_cfg: dict | None = None,
        rope: str | dict | None = None,
        layer_cfgs: dict | list | None = None,
        *,
        in_channels: int,
        grid: PatchGrid,
        has_masked_tokens: bool,
        positioned: bool = False,
        init_cfg: list | dict | None = None,
    ):
        super().__init__(init_cfg or INIT)
        if heads is not None and (heads < 1 or width % heads):
            raise ValueError(
                f"heads={heads} was given; it must divide the width {width}, or be None for layers "
                "without attention"
            )
        if depth < 0:
            raise ValueError(
                f"depth={depth} was given; it is the number of layers of the decoder, 0 or more"
            )
        self.width, self.grid = width, grid
        self.num_layers = depth if heads else 0  # layers that mix tokens
        norm = norm_cfg or dict(type="LN", eps=norm_eps)
        self.rope = RotaryPositions.of(rope)
        if self.rope is not None:
            self.rope.check(width, heads or 1)
        if has_masked_tokens:  # the outputs of the encoder know where they lie
            check_positions(positions, self.rope if heads else None)
        self.projection = nn.Linear(in_channels, width)
        if projection is not None:
            self.projection = nn.Sequential(
                nn.Linear(in_channels, projection),
                nn.GELU(),
                nn.Linear(projection, width, bias=False),
            )
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width)) if has_masked_tokens else None
        self.pos_embed = position_table(positions, grid, width)
        self.query_embed = position_table("learned", grid, width) if positioned else None
        shape = dict(
            embed_dims=width, num_heads=heads or 1, feedforward_channels=4 * width, norm_cfg=norm
        )
        cfgs, parts = split_layer_cfgs(layer_cfgs or {}, depth)
        self.layers = ModuleList(
            MaskedLayer.convert(
                TransformerEncoderLayer(**shape | cfg), get_attention(attention), with_cp, part
            )
            for cfg, part in zip(cfgs, parts, strict=True)
        )
        if not heads:
            for layer in self.layers:
                layer.attn = NoAttention()
        if not bias:
            drop_biases(self.layers)
        self._register_load_state_dict_pre_hook(refuse_other_shapes, with_module=True)
        self.ln1 = build_norm_layer(norm, width)

    def init_weights(self) -> None:
        """Initialise; learned positions and the mask token get a truncated normal of std 0.02."""
        super().init_weights()
        table = self.pos_embed
        learned = table if table is not None and table.requires_grad else None
        for parameter in (learned, self.mask_token, self.query_embed):
            if parameter is not None:
                trunc_normal_(parameter, std=0.02)

    def forward(self, x: Tensor, plan: Plan) -> Tensor:
        """Map encoder outputs (B, E, D) to (B, R, W) at the positions that the head reads."""
        x, rotation = self.embed(x, plan), self.turn(plan)
        x = run_layers(self.layers, x, plan.decoder, plan.output_positions, rotation)
        return self.ln1(x)

    def embed(self, x: Tensor, plan: Plan) -> Tensor:
        """Project encoder outputs (B, E, D), add mask tokens and positions: (B, C, W)."""
        x = self.projection(x)
        if self.mask_token is not None:
            positions = plan.encoded_positions[..., None].expand(len(x), -1, self.width)
            masked = self.mask_token.to(x.dtype).expand(len(x), plan.num_computed, -1)
            x = masked.scatter(1, positions, x)
        if self.pos_embed is not None:
            table = by_token(self.pos_embed, self.grid)
            x = x + gather_tokens(table, plan.order).to(self.ln1.weight.dtype)
        if plan.query_tokens is not None:
            table = by_token(self.query_embed, self.grid)
            x = x + gather_tokens(nn.functional.pad(table, (0, 0, 0, 1)), plan.query_tokens)
        return x

    def turn(self, plan: Plan) -> Rotation | None:
        """Return the rotary positions of the C computed positions; None if there are none."""
        if self.rope is None or not self.num_layers:
            return None
        head, dtype = self.layers[0].attn.head_dims, self.ln1.weight.dtype
        return self.rope.rotate(plan.order, self.grid, head, dtype)
