"""Convert MAE (facebookresearch/mae at efb2a80) to our names.

MAE's encoder has timm's names, and its decoder has names of its own. MAE flattens the pixels of a
patch as (row, column, channel), and we as (channel, row, column). A fine-tuned MAE is a timm ViT
and is converted as one.
"""

import math

import torch
from einops import rearrange
from torch import Tensor

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.models.positions import sincos
from xtra_toolkit.weights.names import IMAGENET, LAYERS, VIT, Ours, add_prefixes, translate

NAME, MARK = "facebookresearch/mae", "decoder_pred.weight"
MASK = dict(type="xtra_toolkit.RandomShown", mask_ratio=0.75)  # no file stores the ratio
PATCHES = "patch_embed.proj.weight"
ROWS = [
    *add_prefixes(VIT, "", "backbone."),
    *add_prefixes(LAYERS, "decoder_", "neck."),
    ("decoder_embed.", "neck.projection."),
    ("decoder_pos_embed", "neck.pos_embed"),
    ("mask_token", "neck.mask_token"),
    ("decoder_norm.", "neck.ln1."),
    ("decoder_pred.", "head.predictors.0."),
]


def recognises(state: dict[str, Tensor]) -> bool:
    """Return whether these are the weights of a pretraining.

    An encoder without its decoder is told from timm's by its fixed sine-cosine positions.
    """
    if not {PATCHES, "pos_embed", "cls_token"} <= state.keys():
        return False
    classifier = any(name.startswith(("head.", "fc_norm.")) for name in state)
    return MARK in state or (not classifier and _is_sincos(state["pos_embed"]))


def to_ours(state: dict[str, Tensor]) -> Ours:
    """Convert to a MaskTargetPretrainer, or to its encoder if the file holds only an encoder.

    Raises:
        ValueError: The file holds a parameter that MAE does not have.
    """
    state = translate(channel_first(state, MARK, PATCHES), ROWS, NAME, "ours")
    return Ours(state, MASK, IMAGENET)


def channel_first(state: dict[str, Tensor], head: str, patches: str) -> dict[str, Tensor]:
    """Sort the rows of the linear head from MAE's order of the pixels into ours.

    Args:
        head, patches: Names of the weights of the head and of the patch convolution.
    """
    _, c, p, q = state[patches].shape
    head_names = head, head.replace(".weight", ".bias")
    order = rearrange(torch.arange(p * q * c), "(p q c) -> (c p q)", p=p, q=q)
    return {name: value[order] if name in head_names else value for name, value in state.items()}


def _is_sincos(positions: Tensor) -> bool:
    tokens, width = positions.shape[1] - 1, positions.shape[2]
    side = math.isqrt(tokens)
    if side**2 != tokens or width % 4:
        return False
    expected = sincos(PatchGrid(side, side, extra=1), width)
    return torch.allclose(positions.float(), expected, atol=1e-3)
