"""MaskedViT: MMPretrain's VisionTransformer under a mask.

Shape legend: B images, N tokens of the grid, E encoded positions, D width.
"""

import math

import torch
import torch.nn.functional as F
from mmpretrain.models import VisionTransformer
from mmpretrain.models.utils import resize_pos_embed
from torch import Tensor, nn

from xtra_toolkit.attention import get_attention
from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.models.encoder_mask import KEY, EncoderMask, unpack
from xtra_toolkit.models.encoder_record import describe_encoder
from xtra_toolkit.models.layers import INIT, MaskedLayer, drop_biases, gather_tokens, run_layers
from xtra_toolkit.models.loading import refuse_other_shapes, refuse_strangers
from xtra_toolkit.models.positions import by_token, position_table
from xtra_toolkit.objective.draw import compile_features
from xtra_toolkit.objective.plan import Features, Plan
from xtra_toolkit.registry import MODELS


@MODELS.register_module()
class MaskedViT(VisionTransformer):
    """A ViT whose attention follows a mask, in pretraining and when probed.

    Parameters carry the names of MMPretrain's VisionTransformer, so that its configs and
    converters read the weights. Features come back in raster order, whatever the mask's order.
    The mask travels in the checkpoint, in a small buffer.

    Args:
        mask: config of the mask factory whose ``for_features`` masks the features. Default:
            that of the checkpoint; the pretrainer fills in its own.
        change_mask: another mask than the checkpoint's is meant.
        attention: back end, see :func:`xtra_toolkit.attention.attention`.
        out_type: 'raw', 'featmap', 'avg_featmap' or 'cls_token', as in MMPretrain.
        with_cls_token: as in MMPretrain, but False by default.
        positions: 'learned', or 'sincos', fixed (MAE, AIM). A checkpoint's table wins.
        bias: False for Linears without bias in all layers (AIM).
        with_cp: layers keep their input alone, and the backward computes them anew.
        **vit: everything else of MMPretrain's VisionTransformer.
    """

    def __init__(
        self,
        mask: dict | None = None,
        change_mask: bool = False,
        attention: str = "auto",
        out_type: str = "raw",
        with_cls_token: bool = False,
        positions: str = "learned",
        bias: bool = True,
        with_cp: bool = False,
        **vit,  # noqa: ANN003
    ):
        size, patch = vit.get("img_size", 224), vit.get("patch_size", 16)
        # before MMPretrain computes with a size that the patch does not tile
        grid = PatchGrid.of(size, patch, vit.get("in_channels", 3), int(with_cls_token))
        vit["init_cfg"] = vit.get("init_cfg") or INIT
        super().__init__(out_type=out_type, with_cls_token=with_cls_token, **vit)
        attend = get_attention(attention)
        for layer in self.layers:
            MaskedLayer.of(layer, attend, with_cp)
        if not bias:
            drop_biases(self.layers)
        self.grid, self.fixed = grid, positions == "sincos"
        table = position_table(positions, grid, self.embed_dims)
        if self.fixed:
            self.pos_embed = table
        options = dict(vit, positions=positions, bias=bias)
        record = describe_encoder(grid, self.arch_settings, options)
        self.add_module(KEY, EncoderMask(mask, change_mask, grid, record))
        self._register_load_state_dict_pre_hook(refuse_strangers, with_module=True)
        self._register_load_state_dict_pre_hook(refuse_other_shapes, with_module=True)
        self._features: dict[tuple, Features] = {}

    def init_weights(self) -> None:
        """As ``init_cfg`` says; MMPretrain's would overwrite fixed positions."""
        init = self.init_cfg if isinstance(self.init_cfg, dict) else {}
        if init.get("type") == "Pretrained" and not init.get("checkpoint"):
            raise ValueError(
                "no checkpoint was named for the encoder; "
                "--cfg-options model.backbone.init_cfg.checkpoint=/path/to/epoch_800.pth"
            )
        table = self.pos_embed.detach().clone()
        super().init_weights()
        if init.get("type") == "Pretrained":
            return
        if self.fixed:
            self.pos_embed.data.copy_(table)
        if self.cls_token is not None:
            nn.init.normal_(self.cls_token, std=0.02)

    @property
    def encoder_mask(self) -> EncoderMask:
        """What masks the features."""
        return getattr(self, KEY)

    def encode(self, images: Tensor, plan: Plan, output_positions: Tensor | None = None) -> Tensor:
        """(B, C, height, width) to (B, E, D): the encoded positions of a plan, normed.

        Args:
            images: as they come out of the data preprocessor.
            plan: of their batch.
            read: (B or 1, R) positions, all that is wanted, where no decoder reads the others.
        """
        x = self.embed(images, plan.encoded_tokens, self.grid)
        x = run_layers(self.layers, x, plan.encoder, output_positions)
        return self.ln1(x) if self.final_norm else x

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, C, height, width) to a feature for each of ``out_indices``, in raster order."""
        grid = PatchGrid.of(images.shape[2:], self.grid.patch, self.grid.channels, self.grid.extra)
        features, outs = self._features_of(grid, images.device), []
        x = self.embed(images, features.order, grid)
        for i, layer in enumerate(self.layers):
            x = layer(x, features.pattern)
            if i == len(self.layers) - 1 and self.final_norm:
                x = self.ln1(x)
            if i in self.out_indices:
                raster = gather_tokens(x, features.raster)
                outs.append(self._format_output(raster, (grid.rows, grid.cols)))
        return tuple(outs)

    def embed(self, images: Tensor, tokens: Tensor, grid: PatchGrid) -> Tensor:
        """Tokens (B or 1, E) of images with their positions, (B, E, D).

        Only these patches are embedded: the patch convolution is a matrix product on them.
        """
        conv = self.patch_embed.projection
        patches = gather_tokens(grid.patchify(images), tokens.clamp(max=grid.tokens - 1))
        x = F.linear(patches.to(conv.weight.dtype), conv.weight.flatten(1), conv.bias)
        if self.patch_embed.norm is not None:
            x = self.patch_embed.norm(x)
        if self.cls_token is not None:
            x = torch.where((tokens >= grid.tokens)[..., None], self.cls_token, x)
        x = x + gather_tokens(self.positions(grid), tokens).to(conv.weight.dtype)
        return self.pre_norm(self.drop_after_pos(x))

    def positions(self, grid: PatchGrid) -> Tensor:
        """(1, tokens, D) position embeddings by token number, resized to another grid."""
        own, other, extra = self.grid, (grid.rows, grid.cols), self.grid.extra
        table = resize_pos_embed(
            self.pos_embed, (own.rows, own.cols), other, self.interpolate_mode, extra
        )
        return by_token(table, extra)

    def train(self, mode: bool = True) -> "MaskedViT":
        """Frozen stages stay in evaluation mode; MMPretrain's turn drop path on again."""
        super().train(mode)
        if mode and self.frozen_stages > 0:
            self._freeze_stages()
        return self

    @torch.inference_mode(False)  # it is kept, and training may follow
    def _features_of(self, grid: PatchGrid, device: torch.device) -> Features:
        config = str(self.encoder_mask.config)
        key = (grid, device, config)
        if key not in self._features:
            mask = self.encoder_mask.for_features(grid)
            if self.out_type == "cls_token" and not mask.attention_mask()[0].all():
                raise ValueError(
                    f"out_type='cls_token' was asked for, and under the mask {config} the class "
                    "token does not see the whole image; take 'avg_featmap', 'featmap' or 'raw'"
                )
            self._features[key] = compile_features(mask, grid).to(device)
        return self._features[key]

    def _prepare_pos_embed(self, state_dict, prefix, *_, **__) -> None:  # noqa: ANN001, ANN002, ANN003
        """Resize a loaded table to our grid. MMPretrain's hook knows square grids only."""
        name, extra = prefix + "pos_embed", self.grid.extra
        if name not in state_dict:
            return
        table, stored = state_dict[name], unpack(state_dict.get(f"{prefix}{KEY}.json"))
        own = self.grid.rows, self.grid.cols
        rows, cols = stored["grid"] if stored else own
        if table.shape[1] - rows * cols not in (0, 1):
            rows = cols = math.isqrt(table.shape[1])
        if table.shape[1] - rows * cols not in (0, 1):
            raise ValueError(
                f"the checkpoint's position table has {table.shape[1]} tokens, neither a square "
                f"nor {self.grid}; load it at the size that it was trained at"
            )
        table = table[:, max(table.shape[1] - rows * cols - extra, 0) :]  # of a class token
        state_dict[name] = resize_pos_embed(table, (rows, cols), own, self.interpolate_mode, extra)
