"""ViTDecoder: the neck. A projection, positions of its own, layers under the plan's mask.

Shape legend: B images, E encoded positions, K computed positions, W width of the decoder.
"""

import torch
from mmengine.model import BaseModule, ModuleList
from mmengine.model.weight_init import trunc_normal_
from mmpretrain.models.backbones.vision_transformer import TransformerEncoderLayer
from mmpretrain.models.utils import build_norm_layer
from torch import Tensor, nn

from xtra_toolkit.attention import named
from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.models.layers import INIT, MaskedLayer, by_token, refuse_other_shapes, take
from xtra_toolkit.plan import Plan
from xtra_toolkit.registry import MODELS


@MODELS.register_module()
class ViTDecoder(BaseModule):
    """The decoder of XTRA and of MAE.

    Args:
        width, depth, heads: of its layers.
        projection: hidden width of the MLP that brings the encoder's width to this one, its
            output without bias (XTRA); None: a single Linear with bias (MAE).
        attention: back end, see :func:`xtra_toolkit.attention.attention`.
        in_channels, grid, hides: the encoder's width, the image's grid, and whether the mask
            hides tokens (then there is a mask token). The pretrainer fills them in.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        projection: int | None = None,
        attention: str = "auto",
        *,
        in_channels: int,
        grid: PatchGrid,
        hides: bool,
        init_cfg: list | dict | None = None,
    ):
        super().__init__(init_cfg or INIT)
        self.width, self.num_layers, self.grid = width, depth, grid
        norm, attend = dict(type="LN", eps=1e-6), named(attention)
        self.projection = nn.Linear(in_channels, width)
        if projection is not None:
            self.projection = nn.Sequential(
                nn.Linear(in_channels, projection),
                nn.GELU(),
                nn.Linear(projection, width, bias=False),
            )
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width)) if hides else None
        self.pos_embed = nn.Parameter(torch.zeros(1, grid.extra + grid.tokens, width))
        self.layers = ModuleList(
            MaskedLayer.of(TransformerEncoderLayer(width, heads, 4 * width, norm_cfg=norm), attend)
            for _ in range(depth)
        )
        self._register_load_state_dict_pre_hook(refuse_other_shapes, with_module=True)
        self.ln1 = build_norm_layer(norm, width)

    def init_weights(self) -> None:
        """As XTRA: truncated normal of 0.02 for positions and the mask token too."""
        super().init_weights()
        trunc_normal_(self.pos_embed, std=0.02)
        if self.mask_token is not None:
            trunc_normal_(self.mask_token, std=0.02)

    def forward(self, x: Tensor, plan: Plan) -> Tensor:
        """(B, E, D) of the encoder to (B, K, W) at the computed positions."""
        x = self.projection(x)
        if self.mask_token is not None:
            places = plan.encoded[..., None].expand(len(x), -1, self.width)
            empty = self.mask_token.to(x.dtype).expand(len(x), plan.keep, -1)
            x = empty.scatter(1, places, x)
        x = x + take(by_token(self.pos_embed, self.grid.extra), plan.order)
        for layer in self.layers:
            x = layer(x, plan.decoder)
        return self.ln1(x)
