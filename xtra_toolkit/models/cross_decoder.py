"""CrossDecoder: a neck whose mask tokens read the encoder alone, and not each other.

Shape legend: B images, E encoded positions, R output positions, D width of the encoder, W width of
the decoder.
"""

from collections.abc import Sequence

import torch
from mmengine.model import ModuleList
from mmengine.model.weight_init import trunc_normal_
from mmpretrain.models.utils import build_norm_layer
from torch import Tensor, nn

from xtra_toolkit.attention import Pattern, get_attention
from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.models.cross_layers import CrossLayer
from xtra_toolkit.models.decoder import Decoder
from xtra_toolkit.models.layer_fusion import LayerWeights
from xtra_toolkit.models.layers import INIT, gather_tokens
from xtra_toolkit.models.loading import refuse_other_shapes
from xtra_toolkit.models.positions import by_token, check_positions, position_table
from xtra_toolkit.objective.links import gather_positions
from xtra_toolkit.objective.plan import Plan
from xtra_toolkit.registry import MODELS


@MODELS.register_module()
class CrossDecoder(Decoder):
    """Decode as CrossMAE does (arXiv 2401.14391).

    A mask token with its position stands at each position that the head reads. It attends to the
    outputs of the encoder that the mask lets it see. Mask tokens do not attend to each other, so
    each costs the same, and hidden tokens that are not predicted cost nothing.

    Args:
        width: Width of the layers.
        depth: Number of layers.
        heads: Number of attention heads.
        memory_layers: What the layers attend to: for each layer of the decoder a weighted sum, with
            learned weights and a norm, of these outputs of the encoder. 0 is the embedded tokens,
            i the output of layer i, before the final norm; the last layer must be among them.
            Default: the outputs of the encoder after its final norm, for all layers.
        positions: 'learned', or 'sincos' for fixed ones (CrossMAE).
        norm_eps: Epsilon of all LayerNorms.
        attention: Back end, see :func:`xtra_toolkit.attention.attention`.
        with_cp: See :class:`MaskedViT`.
        in_channels: Width of the encoder. The pretrainer sets this and the arguments below.
        grid: The grid of the images.
        has_masked_tokens: Whether the mask hides tokens. It makes no difference here.
        positioned: Whether sources are told the positions of their targets, which is not supported.

    Raises:
        ValueError: ``heads`` does not divide ``width``, or the target is positioned.
    """

    cross = True
    num_layers = 1  # a position reaches another in one step, however many layers follow

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        memory_layers: Sequence[int] = (),
        positions: str = "sincos",
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
        if not heads or heads < 1 or width % heads or depth < 1:
            raise ValueError(
                f"width={width}, heads={heads} and depth={depth} were given; a CrossDecoder needs "
                "a layer, and heads that divide the width"
            )
        if positioned:
            raise ValueError(
                "the target is positioned, but the mask tokens of a CrossDecoder stand at the "
                "positions that predict; take a ViTDecoder, or a target at its own position "
                "(MaskedPatches)"
            )
        check_positions(positions, None)
        self.width, self.grid, self.memory_layers = width, grid, tuple(memory_layers)
        norm = dict(type="LN", eps=norm_eps)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = position_table(positions, grid, width)
        self.weights = None
        if self.memory_layers:
            self.weights = LayerWeights(in_channels, len(self.memory_layers), depth, norm)
        attend = get_attention(attention)
        self.layers = ModuleList(
            CrossLayer(width, heads, in_channels, attend, 4 * width, norm, with_cp)
            for _ in range(depth)
        )
        self._register_load_state_dict_pre_hook(refuse_other_shapes, with_module=True)
        self.ln1 = build_norm_layer(norm, width)

    def init_weights(self) -> None:
        """Initialise; learned positions and the mask token get a truncated normal of std 0.02."""
        super().init_weights()
        trunc_normal_(self.mask_token, std=0.02)
        if self.pos_embed.requires_grad:
            trunc_normal_(self.pos_embed, std=0.02)

    def pattern(self, plan: Plan) -> Pattern:
        """Return the attention of the R output positions over the E encoded positions."""
        return plan.cross()

    def forward(self, x: Tensor | Sequence[Tensor], plan: Plan) -> Tensor:
        """Return (B, R, W) at the positions that the head reads.

        Args:
            x: (B, E, D) outputs of the encoder; with ``memory_layers``, a list of its embedded
                tokens and the outputs of all its layers.
            plan: The plan of the batch.
        """
        memories = [x] * len(self.layers)
        if self.weights is not None:
            memories = self.weights([x[i] for i in self.memory_layers])
        tokens, pattern = plan.order, self.pattern(plan)
        if plan.output_positions is not None:
            tokens = gather_positions(tokens, plan.output_positions)
        table = by_token(self.pos_embed, self.grid)
        x = self.mask_token + gather_tokens(table, tokens).to(self.mask_token.dtype)
        x = x.expand(len(memories[0]), -1, -1)
        for layer, memory in zip(self.layers, memories, strict=True):
            x = layer(x, memory, pattern)
        return self.ln1(x)
