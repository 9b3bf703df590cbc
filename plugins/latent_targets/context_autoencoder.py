"""CAE: a regressor of the latents of hidden patches, and a decoder of these (arXiv 2202.03026).

Shape legend: B images, E encoded positions, H hidden ones, R output positions, D width.
"""

from typing import Any

import torch
from mmcv.cnn.bricks.transformer import FFN
from mmengine.model import BaseModule, ModuleList
from mmengine.model.weight_init import trunc_normal_
from mmpretrain.models.backbones.vision_transformer import TransformerEncoderLayer
from torch import Tensor, nn

from xtra_toolkit.attention import Pattern, get_attention
from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.models import Decoder, MaskedViT, PredictionHead
from xtra_toolkit.models.layers import INIT, MaskedLayer, gather_tokens, run_layers
from xtra_toolkit.models.positions import by_token, position_table
from xtra_toolkit.objective.plan import Plan
from xtra_toolkit.registry import MODELS
from xtra_toolkit.targets import MaskedPatches


class RegressorLayer(BaseModule):
    """Let mask tokens attend to visible tokens and to each other, with positions in each layer.

    Args:
        width: Width of the tokens.
        heads: Number of attention heads.
        attention: ``(q, k, v, pattern) -> out``, (B, N, heads, dim) each.
        layer_scale: Initial value of the scales of both branches; 0: there are none.
    """

    def __init__(self, width: int, heads: int, attention: Any, layer_scale: float):
        super().__init__()
        self.heads, self.attention = heads, attention
        self.q_norm, self.k_norm, self.v_norm, self.ln2 = (
            nn.LayerNorm(width, eps=1e-6) for _ in range(4)
        )
        # keys have no bias: it would add the same to all scores of a query
        self.q, self.v, self.proj = (nn.Linear(width, width) for _ in range(3))
        self.k = nn.Linear(width, width, bias=False)
        self.ffn = FFN(width, 4 * width, act_cfg=dict(type="GELU"), add_identity=False)
        self.gamma1, self.gamma2 = (
            nn.Parameter(torch.full((width,), layer_scale or 1.0), bool(layer_scale))
            for _ in range(2)
        )

    def init_weights(self) -> None:
        """Leave the initialisation to the ``init_cfg`` of the neck."""

    def forward(self, x: Tensor, visible: Tensor, position: Tensor, others: Tensor) -> Tensor:
        """Map mask tokens (B, H, D) among visible tokens (B, E, D) to (B, H, D).

        Args:
            x, position: The mask tokens, and the embeddings of their positions.
            visible, others: The visible tokens, and the embeddings of their positions.
        """
        memory, places = torch.cat([visible, x], 1), torch.cat([others, position], 1)
        q, k = self.q(self.q_norm(x + position)), self.k(self.k_norm(memory + places))
        q, k, v = (t.unflatten(2, (self.heads, -1)) for t in (q, k, self.v(self.v_norm(memory))))
        pattern = Pattern("full", k.shape[1], queries=q.shape[1])
        x = x + self.gamma1 * self.proj(self.attention(q, k, v, pattern).flatten(2))
        x = self.ln2(x)
        return x + self.gamma2 * self.ffn(x)


@MODELS.register_module()
class LatentRegressor(Decoder):
    """Regress the latents of hidden patches, and decode them without the visible ones (CAE).

    It returns two outputs, which the heads read by ``SumOfHeads(reads=[...])``: 0, the regressed
    latents; 1, the outputs of the decoder. Its width is that of the encoder. The mask must put
    tokens without pixels first and let all tokens attend to all, as RandomShown and HiddenBlocks
    do.

    Args:
        regressor_depth: Number of layers of the regressor.
        depth: Number of layers of the decoder.
        heads: Number of attention heads.
        layer_scale: Initial value of the scales of all branches; 0: there are none.
        positions: 'sincos' for fixed ones (CAE), or 'learned'.
        attention: Back end, see :func:`xtra_toolkit.attention.attention`.
        in_channels, grid, has_masked_tokens, positioned: The pretrainer sets these.

    Raises:
        ValueError: The mask hides nothing, the target is positioned, or ``heads`` does not divide
            the width.
    """

    outputs = 2
    follows_decoder_mask = False

    def __init__(
        self,
        regressor_depth: int,
        depth: int,
        heads: int,
        layer_scale: float = 0.1,
        positions: str = "sincos",
        attention: str = "auto",
        *,
        in_channels: int,
        grid: PatchGrid,
        has_masked_tokens: bool,
        positioned: bool = False,
        with_cp: bool = False,
        init_cfg: list | dict | None = None,
    ):
        super().__init__(init_cfg or INIT)
        if not has_masked_tokens or positioned or heads < 1 or in_channels % heads:
            raise ValueError(
                f"heads={heads} was given for a width of {in_channels}; a LatentRegressor needs "
                "heads that divide the width, a mask that hides tokens, which the encoder leaves "
                "out, and a target that is not positioned"
            )
        self.width, self.grid, self.num_layers = in_channels, grid, regressor_depth + depth
        attend = get_attention(attention)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, in_channels))
        self.pos_embed = position_table(positions, grid, in_channels)
        self.regressors = ModuleList(
            RegressorLayer(in_channels, heads, attend, layer_scale) for _ in range(regressor_depth)
        )
        shape = dict(
            embed_dims=in_channels,
            num_heads=heads,
            feedforward_channels=4 * in_channels,
            layer_scale_init_value=layer_scale,
            norm_cfg=dict(type="LN", eps=1e-6),
        )
        self.layers = ModuleList(
            MaskedLayer.convert(TransformerEncoderLayer(**shape), attend, with_cp)
            for _ in range(depth)
        )
        self.regressor_norm, self.ln1 = (nn.LayerNorm(in_channels, eps=1e-6) for _ in range(2))

    def init_weights(self) -> None:
        """Initialise; the mask token gets a truncated normal of std 0.02."""
        super().init_weights()
        trunc_normal_(self.mask_token, std=0.02)
        if self.pos_embed.requires_grad:
            trunc_normal_(self.pos_embed, std=0.02)

    def pattern(self, plan: Plan) -> Pattern:
        """Return the attention of the H hidden positions over all computed positions."""
        return Pattern("full", plan.num_computed, queries=plan.hidden_positions.shape[1])

    def forward(self, x: Tensor, plan: Plan) -> list[Tensor]:
        """Map encoder outputs (B, E, D) to latents and outputs, (B, R, D) each.

        Raises:
            ValueError: The mask does not let all tokens attend to all.
        """
        if plan.decoder.kind != "full":
            raise ValueError(
                f"the mask gives the decoder a pattern of the kind {plan.decoder.kind!r}; a "
                "LatentRegressor needs full attention (RandomShown, HiddenBlocks)"
            )
        hidden, extra, table = plan.hidden_positions, self.grid.extra, self.pos_embed
        places = gather_tokens(by_token(table, self.grid), plan.order).expand(len(x), -1, -1)
        position, others = (
            gather_tokens(places.to(x.dtype), at)
            for at in (hidden, plan.encoded_positions[:, extra:])
        )
        visible, tokens = x[:, extra:], self.mask_token.to(x.dtype).expand_as(position)
        for layer in self.regressors:
            tokens = layer(tokens, visible, position, others)
        latents = self.regressor_norm(tokens)
        among = Pattern("full", hidden.shape[1])
        outputs = self.ln1(run_layers(self.layers, latents + position, among, None))
        read = hidden if plan.output_positions is None else plan.output_positions
        index = torch.searchsorted(hidden, read.expand(len(hidden), -1).contiguous())
        found = hidden.gather(1, index.clamp(max=hidden.shape[1] - 1))
        torch._assert_async((found == read).all(), "a LatentRegressor predicts hidden tokens alone")
        return [gather_tokens(out, index) for out in (latents, outputs)]


@MODELS.register_module()
class HiddenLatents(MaskedPatches):
    """Predict the encoder's own outputs at hidden patches, which it sees without the visible ones.

    The encoder is not trained by them (CAE's alignment).
    """

    pixels = False
    local = False  # the latent of a patch depends on the other hidden patches

    def __init__(self) -> None:
        super().__init__(normalise=False)

    def bind(self, backbone: MaskedViT) -> None:
        """Note the encoder; it is no submodule of the target."""
        self.__dict__["encoder"] = backbone

    def width(self, grid: PatchGrid) -> int:
        """Return the width of the encoder."""
        return self.encoder.embed_dims

    def values(self, images: Tensor, grid: PatchGrid) -> Tensor:
        """Return the latents (B, N, D) of images (B, C, height, width) with all patches hidden."""
        return self._latents(images, grid, torch.arange(grid.tokens, device=images.device)[None])

    def values_in_plan(self, images: Tensor, grid: PatchGrid, plan: Plan) -> Tensor:
        """Return the latents (B, N, D), 0 at the visible patches."""
        hidden = plan.hidden_positions
        tokens = gather_tokens(plan.order[..., None], hidden)[..., 0]
        return self._latents(images, grid, tokens)

    def _latents(self, images: Tensor, grid: PatchGrid, tokens: Tensor) -> Tensor:
        """Return the latents of some tokens (B or 1, H) among each other, as (B, N, D)."""
        encoder, count = self.encoder, tokens.shape[1]
        first = torch.arange(grid.extra, device=tokens.device) + grid.tokens
        tokens = torch.cat([first.expand(len(tokens), -1), tokens], 1)
        x = encoder.embed(images, tokens, grid)
        pattern = encoder.with_positions(Pattern("full", x.shape[1]), tokens, grid)
        x = run_layers(encoder.layers, x, pattern, None, encoder.rotation(tokens, grid))
        x = encoder.ln1(x) if encoder.final_norm else x
        index = tokens[:, grid.extra :, None].expand(len(x), count, x.shape[-1])
        return x.new_zeros(len(x), grid.tokens, x.shape[-1]).scatter(1, index, x[:, grid.extra :])


@MODELS.register_module()
class OutputHead(PredictionHead):
    """Compare the outputs themselves with the values, without a predictor.

    Args:
        **arguments: Those of :class:`PredictionHead`, but ``hidden``.

    Raises:
        ValueError: The values have another width than the outputs.
    """

    def __init__(self, *, shapes: list[tuple[int, int]], **arguments: Any):
        super().__init__(shapes=shapes, **arguments)
        if any(width != out for width, out in shapes):
            raise ValueError(
                f"the outputs and the values have the widths {shapes}; an OutputHead compares them "
                "as they are, so they must be equal; take a PredictionHead"
            )
        self.predictors = nn.ModuleList(nn.Identity() for _ in shapes)
