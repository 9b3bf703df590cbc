"""Convert MMPretrain's MAE (1.2.0) to our names, and our encoder to its VisionTransformer.

The encoder already has our names. Its fixed positions encode the row first, whereas those of MAE,
AIM and MaskedViT(positions='sincos') encode the column first: on a square grid the halves of the
channels are swapped. The weights were trained with the table in the file, so the table is kept; a
loaded table replaces the one that the model computed.
"""

from torch import Tensor

from xtra_toolkit.weights.mae import MASK, channel_first
from xtra_toolkit.weights.names import IMAGENET, Ours, translate

NAME, MARK = "MMPretrain's MAE", "neck.decoder_pred.weight"
PATCHES = "backbone.patch_embed.projection.weight"
ROWS = [
    ("backbone.", "backbone."),
    ("neck.decoder_embed.", "neck.projection."),
    ("neck.decoder_pos_embed", "neck.pos_embed"),
    ("neck.mask_token", "neck.mask_token"),
    ("neck.decoder_blocks.{i}.", "neck.layers.{i}."),
    ("neck.ln1.", "neck.ln1."),
    ("neck.decoder_pred.", "head.predictors.0."),
]


def recognises(state: dict[str, Tensor]) -> bool:
    """Return whether the names are those of MMPretrain's MAE; its MAE of a HiViT has others."""
    return {MARK, PATCHES, "backbone.pos_embed"} <= state.keys()


def to_ours(state: dict[str, Tensor]) -> Ours:
    """Convert to a MaskTargetPretrainer.

    Raises:
        ValueError: The file holds a parameter that an MAE does not have.
    """
    state = translate(channel_first(state, MARK, PATCHES), ROWS, NAME, "ours")
    return Ours(state, MASK, IMAGENET)


def to_mmpretrain(encoder: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convert an encoder to MMPretrain's VisionTransformer, which has the same names.

    VisionTransformer can leave out the bias of qkv (qkv_bias=False), but no other bias: where the
    encoder has none, the bias is zeros.

    Raises:
        ValueError: The encoder has relative positions or registers.
    """
    if "register_tokens" in encoder:
        raise ValueError(
            f"MMPretrain's VisionTransformer has no registers, and this encoder has "
            f"{encoder['register_tokens'].shape[1]}; load the checkpoint into a MaskedViT, or "
            "convert it --to timm"
        )
    if any(name.startswith("rel_pos_bias.") for name in encoder):
        raise ValueError(
            "MMPretrain's VisionTransformer has no relative positions, and this encoder does; "
            "load the checkpoint into a MaskedViT"
        )
    zero_biases = {
        name.replace(".weight", ".bias"): value.new_zeros(len(value))
        for name, value in encoder.items()
        if name.startswith("layers.") and value.ndim == 2 and ".qkv." not in name
    }
    return {**zero_biases, **encoder}
