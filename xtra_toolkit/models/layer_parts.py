"""Parts of a layer that MMPretrain's TransformerEncoderLayer lacks: gated FFNs, norms of q and k.

They are keys of ``layer_cfgs``, beside the arguments of MMPretrain's layer.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mmpretrain.models.backbones.vision_transformer import TransformerEncoderLayer
from mmpretrain.models.utils import SwiGLUFFN
from torch import nn

from xtra_toolkit.registry import MODELS

FFN_TYPES = ("origin", "swiglu_fused", "swiglu")

# MMEngine and MMPretrain register no RMSNorm
MODELS.register_module("RMSNorm", module=nn.RMSNorm)


@dataclass(frozen=True)
class LayerParts:
    """Hold the keys of ``layer_cfgs`` that are not arguments of MMPretrain's layer.

    Args:
        ffn_type: 'origin' (MLP) or 'swiglu_fused', as in MMPretrain, which makes the hidden width
            of SwiGLU two thirds of ``feedforward_channels``, rounded up to a multiple of 8; or
            'swiglu', whose hidden width is ``feedforward_channels`` (EVA-02, AIMv2).
        sub_ln: Whether the hidden features of 'swiglu' are normalised (EVA-02).
        qk_norm: Whether queries and keys are normalised in each head, by a norm of
            the kind of the layer's.

    Raises:
        ValueError: The type of the FFN is unknown, or ``sub_ln`` is set for another than 'swiglu'.
    """

    ffn_type: str = "origin"
    sub_ln: bool = False
    qk_norm: bool = False

    def __post_init__(self) -> None:
        if self.ffn_type not in FFN_TYPES:
            raise ValueError(f"ffn_type={self.ffn_type!r} was given; valid: {', '.join(FFN_TYPES)}")
        if self.sub_ln and self.ffn_type != "swiglu":
            raise ValueError(
                f"sub_ln=True was given with ffn_type={self.ffn_type!r}; it normalises the hidden "
                "features of a gated FFN; set ffn_type='swiglu'"
            )

    def equip(self, layer: TransformerEncoderLayer) -> None:
        """Add the parts to a layer of MMPretrain in place.

        Raises:
            ValueError: The FFN is gated and the layer has dropout, which MMPretrain's has not.
        """
        dropout, old = layer.attn.proj_drop.p, layer.ffn
        if self.ffn_type != "origin" and dropout:
            raise ValueError(
                f"ffn_type={self.ffn_type!r} and drop_rate={dropout} were given; a gated FFN has "
                "no dropout; leave drop_rate unset, or use drop_path_rate"
            )
        if self.ffn_type == "swiglu":
            layer.ffn = SwiGLUFFN(layer.embed_dims, old.feedforward_channels)
            layer.ffn.gamma2 = old.gamma2
        if self.sub_ln:
            layer.ffn.norm = _norm_like(layer.ln1, old.feedforward_channels)
        if self.ffn_type != "origin":  # MMPretrain's layer gives its gated FFN no drop path
            layer.ffn.dropout_layer = copy.deepcopy(layer.attn.out_drop)
        if self.qk_norm:
            layer.attn.q_norm, layer.attn.k_norm = (
                _norm_like(layer.ln1, layer.attn.head_dims) for _ in range(2)
            )


def fused_width(hidden: int) -> int:
    """Return the hidden width of 'swiglu_fused' for ``feedforward_channels``, as in MMPretrain."""
    return (hidden * 2 // 3 + 7) // 8 * 8


def _norm_like(norm: nn.Module, width: int) -> nn.Module:
    return type(norm)(width, eps=norm.eps)


KEYS = tuple(LayerParts.__dataclass_fields__)


def split_layer_cfgs(
    layer_cfgs: Mapping | Sequence[Mapping], depth: int
) -> tuple[list[dict], list[LayerParts]]:
    """Split ``layer_cfgs`` into the arguments of MMPretrain's layers and the parts of this file.

    Args:
        layer_cfgs: A dict for all layers, or one for each.
        depth: Number of layers.

    Raises:
        ValueError: It is a list of another length, or a value is invalid.
    """
    each = [layer_cfgs] * depth if isinstance(layer_cfgs, Mapping) else list(layer_cfgs)
    if len(each) != depth:
        raise ValueError(
            f"layer_cfgs has {len(each)} entries, and there are {depth} layers; give a dict for "
            "all layers, or a list with one for each"
        )
    parts = [LayerParts(**{key: cfg[key] for key in KEYS if key in cfg}) for cfg in each]
    stock = [{key: value for key, value in cfg.items() if key not in KEYS} for cfg in each]
    for cfg, part in zip(stock, parts, strict=True):
        if part.ffn_type == "swiglu_fused":
            cfg["ffn_type"] = part.ffn_type
    return stock, parts
