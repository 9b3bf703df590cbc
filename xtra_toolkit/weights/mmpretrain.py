"""MMPretrain's own MAE (1.2.0) to ours, and an encoder of ours to its VisionTransformer.

The encoder has our names already. Its fixed positions encode the row first, where those of MAE,
AIM and MaskedViT(positions='sincos') encode the column: on a square grid the halves of the
channels are swapped. The weights were trained with the table in the file, so it is kept, and a
loaded table wins over the one that a model makes.
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
    """Are these names a pretraining's? MMPretrain's MAE of a HiViT has other patches."""
    return {MARK, PATCHES, "backbone.pos_embed"} <= state.keys()


def to_ours(state: dict[str, Tensor]) -> Ours:
    """To a MaskTargetPretrainer.

    Raises:
        ValueError: anything but the parts of an MAE.
    """
    state = translate(channel_first(state, MARK, PATCHES), ROWS, NAME, "ours")
    return Ours(state, MASK, IMAGENET)


def to_mmpretrain(encoder: dict[str, Tensor]) -> dict[str, Tensor]:
    """An encoder's state dict for MMPretrain's VisionTransformer, whose names are ours.

    It can leave out the bias of qkv (qkv_bias=False), but no other: those become zeros.
    """
    absent = {
        name.replace(".weight", ".bias"): value.new_zeros(len(value))
        for name, value in encoder.items()
        if name.startswith("layers.") and value.ndim == 2 and ".qkv." not in name
    }
    return {**absent, **encoder}
