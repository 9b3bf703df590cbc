"""MaskedViT: MMPretrain's VisionTransformer with an attention mask.

Shape legend: B images, N tokens of the grid, E encoded positions, D width.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from mmpretrain.models import VisionTransformer
from mmpretrain.models.utils import resize_pos_embed
from torch import Tensor, nn

from xtra_toolkit.attention import Pattern, get_attention
from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.models.encoder_mask import KEY, EncoderMask, unpack
from xtra_toolkit.models.encoder_record import describe_encoder
from xtra_toolkit.models.layer_fusion import LayerFusion, drop_fusion
from xtra_toolkit.models.layer_parts import split_layer_cfgs
from xtra_toolkit.models.layers import INIT, MaskedLayer, drop_biases, gather_tokens, run_layers
from xtra_toolkit.models.loading import (
    NO_CHECKPOINT,
    add_recorded_options,
    drop_mask_token,
    explain_missing_prefix,
    refuse_other_names,
    refuse_other_record,
    refuse_other_shapes,
)
from xtra_toolkit.models.option_checks import (
    ALL,
    check_options,
    check_patch_embed,
    check_registers,
    refuse_other_size,
)
from xtra_toolkit.models.positions import by_token, check_positions, position_table
from xtra_toolkit.models.relative import RelativeBias
from xtra_toolkit.models.rotary import RotaryPositions, Rotation
from xtra_toolkit.objective.draw import compile_features
from xtra_toolkit.objective.plan import Features, Plan
from xtra_toolkit.registry import MODELS


@MODELS.register_module()
class MaskedViT(VisionTransformer):
    """Run a ViT whose attention follows a mask, in pretraining and when it is probed.

    Parameters have the names of MMPretrain's VisionTransformer, so that its configs and converters
    read the weights. Features are returned in raster order, whatever the order of the mask. The
    mask is saved in the checkpoint, in a small buffer.

    Args:
        mask: Config of the mask factory whose ``for_features`` is the mask of the features.
            Default: that of the checkpoint. The pretrainer sets it to its own mask.
        change_mask: Whether a mask other than that of the checkpoint is intended.
        attention: Back end, see :func:`xtra_toolkit.attention.attention`.
        out_type: 'raw', 'featmap', 'avg_featmap' or 'cls_token', as in MMPretrain.
        with_cls_token: As in MMPretrain. Default: as in the checkpoint, or False without one.
        registers: Number of learned tokens in front of the sequence, without pixels or positions
            (arXiv 2309.16588). All tokens see them; they see what the first position of the mask
            sees. 'raw' features hold them after the class token, and means leave them out. Default:
            as in the checkpoint, or 0 without one.
        positions: 'learned', or 'sincos' for fixed ones (MAE, AIM). The table of a checkpoint
            replaces them. 'relative': learned numbers for the offset of each pair of tokens, which
            all layers add to the scores of their attention (BEiT). 'none': DINOv3, with ``rope``.
            Default: 'relative' or 'none' if the checkpoint has them, or else 'learned'.
        bias: Whether the Linear layers in all layers have a bias (not in AIM). Default: as in the
            checkpoint, or True without one.
        with_cp: Whether layers keep only their input and compute the rest again in the backward
            pass (activation checkpointing).
        mask_tokens: Whether a learned token stands for each hidden token in pretraining, with its
            position (BEiT, SimMIM). By default hidden tokens are left out (MAE).
        dynamic_img_size: Whether other sizes than ``img_size`` are intended: of the images, and of
            the checkpoint. Position embeddings are resized, and the features are others.
        rope: Rotary positions, by token: a type or a config of :class:`RotaryPositions`, for
            instance 'dinov3'. Default: those of the checkpoint, or none without one.
        fused_layers: Indices of layers before the last one, whose outputs :class:`LayerFusion`
            adds to those of the last one in pretraining, before the final norm (MFF). Features are
            not fused. Default: none.
        **vit: All other arguments of MMPretrain's VisionTransformer. ``arch``, ``img_size``,
            ``patch_size`` and ``in_channels`` are by default those of the checkpoint that
            ``init_cfg`` names. ``frozen_stages='all'`` freezes all layers.
            ``layer_cfgs`` also takes the arguments of :class:`LayerParts` (``ffn_type='swiglu'``,
            ``sub_ln``, ``qk_norm``).
    """

    def __init__(
        self,
        mask: dict | None = None,
        change_mask: bool = False,
        attention: str = "auto",
        out_type: str = "raw",
        with_cls_token: bool | None = None,
        positions: str | None = None,
        bias: bool | None = None,
        with_cp: bool = False,
        mask_tokens: bool = False,
        dynamic_img_size: bool = False,
        rope: str | dict | None = None,
        fused_layers: Sequence[int] = (),
        registers: int | None = None,
        **vit,  # noqa: ANN003
    ):
        given = dict(with_cls_token=with_cls_token, bias=bias, positions=positions, rope=rope)
        vit = add_recorded_options(dict(vit, **given, registers=registers))
        with_cls_token, bias = vit.pop("with_cls_token", False), vit.pop("bias", True)
        positions, rope = vit.pop("positions", "learned"), vit.pop("rope", None)
        size, patch = vit.get("img_size", 224), vit.get("patch_size", 16)
        # built first, since it explains a size that the patch does not tile
        registers = check_registers(vit.pop("registers", 0))
        extra = registers + with_cls_token
        grid = PatchGrid.of(size, patch, vit.get("in_channels", 3), extra, registers)
        arch = check_options(self.arch_zoo, vit)
        if vit.get("frozen_stages") == ALL:
            vit["frozen_stages"] = arch["num_layers"]
        rope = RotaryPositions.of(rope)
        if rope is not None:
            rope.check(arch["embed_dims"], arch["num_heads"])
        check_positions(positions, rope)
        vit["init_cfg"] = vit.get("init_cfg") or INIT
        layer_cfgs, parts = split_layer_cfgs(vit.get("layer_cfgs") or {}, arch["num_layers"])
        stock = dict(vit, layer_cfgs=layer_cfgs)
        super().__init__(out_type=out_type, with_cls_token=with_cls_token, **stock)
        check_patch_embed(self.patch_embed.projection, grid)
        attend = get_attention(attention)
        for layer, part in zip(self.layers, parts, strict=True):
            MaskedLayer.convert(layer, attend, with_cp, part)
        if not bias:
            drop_biases(self.layers)
        self.grid, self.fixed, self.rope = grid, positions == "sincos", rope
        self.dynamic_img_size = dynamic_img_size
        self.rel_pos_bias = None
        if positions == "relative":
            self.rel_pos_bias = RelativeBias(grid, self.arch_settings["num_heads"])
            self.pos_embed = None
        else:
            table = position_table(positions, grid.without_registers(), self.embed_dims)
            if positions != "learned":
                self.pos_embed = table
        self.mask_token = nn.Parameter(torch.zeros(1, 1, self.embed_dims)) if mask_tokens else None
        self.fusion = None
        if fused_layers:
            self.fusion = LayerFusion(self.embed_dims, fused_layers, self.num_layers)
        self.num_extra_tokens, self.register_tokens = grid.extra, None
        if registers:
            learned = torch.zeros(1, registers, self.embed_dims)
            self.register_tokens = nn.Parameter(learned, requires_grad=self.frozen_stages <= 0)
        options = dict(vit, positions=positions, bias=bias, rope=rope)
        record = describe_encoder(grid, self.arch_settings, options)
        self.add_module(KEY, EncoderMask(mask, change_mask, grid, record))
        self._register_load_state_dict_pre_hook(drop_mask_token, with_module=True)
        self._register_load_state_dict_pre_hook(drop_fusion, with_module=True)
        self._register_load_state_dict_pre_hook(refuse_other_record, with_module=True)
        self._register_load_state_dict_pre_hook(refuse_other_names, with_module=True)
        self._register_load_state_dict_pre_hook(refuse_other_shapes, with_module=True)
        self._features: dict[tuple, Features] = {}

    def init_weights(self) -> None:
        """Initialise as ``init_cfg`` tells. MMPretrain's method would overwrite fixed positions."""
        init = self.init_cfg if isinstance(self.init_cfg, dict) else {}
        if init.get("type") == "Pretrained" and not init.get("checkpoint"):
            raise ValueError(NO_CHECKPOINT)
        table = self.pos_embed.detach().clone() if self.fixed else None
        with explain_missing_prefix(init):
            super().init_weights()
        if init.get("type") == "Pretrained":
            return
        if self.fixed:
            self.pos_embed.data.copy_(table)
        if self.cls_token is not None:
            nn.init.normal_(self.cls_token, std=0.02)
        if self.register_tokens is not None:
            nn.init.normal_(self.register_tokens, std=0.02)
        if self.mask_token is not None:
            nn.init.trunc_normal_(self.mask_token, std=0.02)

    @property
    def encoder_mask(self) -> EncoderMask:
        """Return the module that holds the mask of the features."""
        return getattr(self, KEY)

    def encode(self, images: Tensor, plan: Plan, output_positions: Tensor | None = None) -> Tensor:
        """Compute the outputs at the encoded positions of a plan, (B, E, D), after the final norm.

        Args:
            images: (B, C, height, width), as they leave the data preprocessor.
            plan: The plan of the batch.
            output_positions: (B or 1, R) positions whose outputs are returned, (B, R, D), if no
                decoder reads the others. None: all encoded positions.
        """
        if self.rel_pos_bias is not None and plan.encoder.kind == "full" and plan.each_token_once:
            plan, output_positions = self._in_token_order(plan, output_positions)
        x, pattern, rotation = self._start(images, plan)
        x = run_layers(self.layers, x, pattern, output_positions, rotation, self.fusion)
        return self.ln1(x) if self.final_norm else x

    def encode_layers(self, images: Tensor, plan: Plan) -> list[Tensor]:
        """Compute the embedded tokens and the outputs of each layer, (B, E, D), before any norm."""
        x, pattern, rotation = self._start(images, plan)
        outputs = [x]
        for layer in self.layers:
            outputs.append(layer(outputs[-1], pattern, None, rotation))
        return outputs

    def _start(self, images: Tensor, plan: Plan) -> tuple[Tensor, Pattern, Rotation | None]:
        """Return the embedded tokens of a plan, their pattern and their rotary positions."""
        x = self.embed(images, plan.encoded_tokens, self.grid, plan.hidden)
        pattern = self.with_positions(plan.encoder, plan.encoded_tokens, self.grid)
        return x, pattern, self.rotation(plan.encoded_tokens, self.grid)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Extract a feature of images (B, C, height, width) for each of ``out_indices``.

        Features are in raster order; their shape follows from ``out_type`` as in MMPretrain.

        Raises:
            ValueError: The images have another size than ``img_size``, and ``dynamic_img_size`` is
                not set; or the patches do not tile them.
        """
        sizes = self.grid.patch, self.grid.channels, self.grid.extra, self.grid.registers
        grid = PatchGrid.of(images.shape[2:], *sizes)
        if not self.dynamic_img_size:
            refuse_other_size(self.grid, grid)
        features, outs = self._features_of(grid, images.device), []
        x = self.embed(images, features.order, grid)
        pattern = self.with_positions(features.pattern, features.order, grid)
        rotation = self.rotation(features.order, grid)
        for i, layer in enumerate(self.layers):
            x = layer(x, pattern, None, rotation)
            if i == len(self.layers) - 1 and self.final_norm:
                x = self.ln1(x)
            if i in self.out_indices:
                raster = gather_tokens(x, features.raster)
                outs.append(self._format_output(raster, (grid.rows, grid.cols)))
        return tuple(outs)

    def embed(
        self, images: Tensor, tokens: Tensor, grid: PatchGrid, hidden: Tensor | None = None
    ) -> Tensor:
        """Embed some tokens (B or 1, E) of images with their positions; return (B, E, D).

        Only these patches are embedded: the patch convolution is computed as a matrix product. The
        mask token stands for the ``hidden`` ones, (B or 1, E) bool.
        """
        conv = self.patch_embed.projection
        patches = gather_tokens(grid.patchify(images), tokens.clamp(max=grid.tokens - 1))
        x = F.linear(patches.to(conv.weight.dtype), conv.weight.flatten(1), conv.bias)
        if self.patch_embed.norm is not None:
            x = self.patch_embed.norm(x)
        if self.cls_token is not None:
            x = torch.where((tokens >= grid.tokens)[..., None], self.cls_token, x)
        if self.register_tokens is not None:
            register = tokens - grid.tokens - grid.placed
            learned = gather_tokens(self.register_tokens, register.clamp(min=0))
            x = torch.where((register >= 0)[..., None], learned, x)
        if hidden is not None:
            x = torch.where(hidden[..., None], self.mask_token, x)
        if self.pos_embed is not None:
            x = x + gather_tokens(self.positions(grid), tokens).to(conv.weight.dtype)
        return self.pre_norm(self.drop_after_pos(x))

    def positions(self, grid: PatchGrid) -> Tensor:
        """Return (1, tokens, D): the position embeddings by token number, resized to a grid."""
        own, other, placed = self.grid, (grid.rows, grid.cols), self.grid.placed
        table = resize_pos_embed(
            self.pos_embed, (own.rows, own.cols), other, self.interpolate_mode, placed
        )
        return by_token(table, grid)

    @staticmethod
    def _in_token_order(plan: Plan, output_positions: Tensor | None) -> tuple[Plan, Tensor]:
        """Return a plan of full attention in the order of tokens, and where its outputs then lie.

        Under full attention the order makes no difference; in one order for all images they share
        their relative positions.
        """
        order, batch = plan.encoded_tokens, len(plan.encoded_tokens)
        tokens = torch.arange(order.shape[1], device=order.device)[None]
        position = torch.zeros_like(order).scatter(1, order, tokens.expand(batch, -1))
        torch._assert_async(
            (order.gather(1, position) == tokens).all(),
            "a draw of the mask does not hold each token once, as the certified ones did",
        )
        hidden = plan.hidden
        if hidden is not None:
            hidden = hidden.expand(batch, -1).gather(1, position)
        rows = order
        if output_positions is not None:
            rows = order.gather(1, output_positions.expand(batch, -1))
        return replace(plan, encoded_tokens=tokens, hidden=hidden), rows

    def with_positions(self, pattern: Pattern, tokens: Tensor, grid: PatchGrid) -> Pattern:
        """Return a pattern over tokens (B or 1, E) with their relative positions, if there are."""
        if self.rel_pos_bias is None:
            return pattern
        return replace(pattern, score_bias=self.rel_pos_bias(tokens, grid))

    def rotation(self, tokens: Tensor, grid: PatchGrid) -> Rotation | None:
        """Return the rotary positions of tokens (B or 1, E); None if the encoder has none."""
        if self.rope is None:
            return None
        head = self.layers[0].attn.head_dims
        return self.rope.rotate(tokens, grid, head, self.patch_embed.projection.weight.dtype)

    def train(self, mode: bool = True) -> "MaskedViT":
        """Set the mode, but keep frozen stages in evaluation mode.

        MMPretrain's method would turn their drop path on again.
        """
        super().train(mode)
        if mode and self.frozen_stages > 0:
            self._freeze_stages()
        return self

    def get_layer_depth(self, param_name: str, prefix: str = "") -> tuple[int, int]:
        """Return the depth of a parameter, for a decay of the learning rate by layers."""
        if param_name == f"{prefix}register_tokens":
            param_name = f"{prefix}cls_token"  # MMPretrain's method knows no registers
        return super().get_layer_depth(param_name, prefix)

    @torch.inference_mode(False)  # training may use the kept tensors later
    def _features_of(self, grid: PatchGrid, device: torch.device) -> Features:
        config = str(self.encoder_mask.config)
        key = (grid, device, config)
        if key not in self._features:
            mask = self.encoder_mask.for_features(grid)
            if self.out_type == "cls_token" and not mask.attention_mask()[0].all():
                raise ValueError(
                    f"out_type='cls_token' was given, but under the mask {config} the class token "
                    "does not see the whole image; set 'avg_featmap', 'featmap' or 'raw'"
                )
            self._features[key] = compile_features(mask, grid).to(device)
        return self._features[key]

    def _prepare_pos_embed(self, state_dict, prefix, *_, **__) -> None:  # noqa: ANN001, ANN002, ANN003
        """Resize a loaded table to this grid. MMPretrain's hook supports square grids only."""
        name, extra = prefix + "pos_embed", self.grid.placed
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
        # drop the class token of the checkpoint if this encoder has none
        table = table[:, max(table.shape[1] - rows * cols - extra, 0) :]
        state_dict[name] = resize_pos_embed(table, (rows, cols), own, self.interpolate_mode, extra)
