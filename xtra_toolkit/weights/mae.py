"""facebookresearch/mae (at efb2a80) to ours.

Its names are timm's, with the decoder beside them. It flattens a patch's pixels as (row, column,
channel), ours are (channel, row, column). What was fine-tuned is a timm ViT, and read as one.
"""

import math

import torch
from einops import rearrange
from torch import Tensor

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.models.positions import sincos
from xtra_toolkit.weights.names import IMAGENET, LAYERS, VIT, Ours, translate, under

NAME, MARK = "facebookresearch/mae", "decoder_pred.weight"
MASK = dict(type="xtra_toolkit.RandomShown", mask_ratio=0.75)  # no file tells the ratio
PATCHES = "patch_embed.proj.weight"
ROWS = [
    *under(VIT, "", "backbone."),
    *under(LAYERS, "decoder_", "neck."),
    ("decoder_embed.", "neck.projection."),
    ("decoder_pos_embed", "neck.pos_embed"),
    ("mask_token", "neck.mask_token"),
    ("decoder_norm.", "neck.ln1."),
    ("decoder_pred.", "head.predictors.0."),
]


def recognises(state: dict[str, Tensor]) -> bool:
    """Are these a pretraining's? Its encoder alone differs from timm's by its fixed positions."""
    if not {PATCHES, "pos_embed", "cls_token"} <= state.keys():
        return False
    return MARK in state or (not _classifies(state) and _fixed(state["pos_embed"]))


def to_ours(state: dict[str, Tensor]) -> Ours:
    """To a MaskTargetPretrainer, or to its encoder where the file holds no more.

    Raises:
        ValueError: anything but MAE's own parts.
    """
    state = translate(channel_first(state, MARK, PATCHES), ROWS, NAME, "ours")
    return Ours(state, MASK, IMAGENET)


def channel_first(state: dict[str, Tensor], head: str, patches: str) -> dict[str, Tensor]:
    """The rows of the linear head put into our order of the pixels.

    Args:
        head, patches: names of the weights of the head and of the patch convolution.
    """
    _, c, p, q = state[patches].shape
    mine = head, head.replace(".weight", ".bias")
    order = rearrange(torch.arange(p * q * c), "(p q c) -> (c p q)", p=p, q=q)
    return {name: value[order] if name in mine else value for name, value in state.items()}


def _classifies(state: dict[str, Tensor]) -> bool:
    return any(name.startswith(("head.", "fc_norm.")) for name in state)


def _fixed(table: Tensor) -> bool:
    side, width = math.isqrt(table.shape[1] - 1), table.shape[2]
    if side**2 != table.shape[1] - 1 or width % 4:
        return False
    return torch.allclose(table.float(), sincos(PatchGrid(side, side, extra=1), width), atol=1e-3)
