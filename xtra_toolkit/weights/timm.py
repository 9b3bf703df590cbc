"""Convert timm's VisionTransformer (1.0) to our encoder, and back.

Our encoder has the names of MMPretrain's VisionTransformer. timm applies a norm to the tokens
(``norm``) or to the pooled feature (``fc_norm``; ours: out_type='avg_featmap' with
final_norm=False). No file stores the number of heads, the eps of the norms or the activation.
"""

import math

import torch
from torch import Tensor

from xtra_toolkit.weights.names import VIT, Ours, add_prefixes, reverse, translate

NAME, MARK = "timm's VisionTransformer", "blocks.0.norm1.weight"
HEADS = ("head.", "head_dist.")
ROWS = [
    *VIT,
    ("patch_embed.norm.", "patch_embed.norm."),
    ("norm_pre.", "pre_norm."),
    ("blocks.{i}.ls1.gamma", "layers.{i}.attn.gamma1.weight"),
    ("blocks.{i}.ls2.gamma", "layers.{i}.ffn.gamma2.weight"),
    ("fc_norm.", "ln2."),
    ("reg_token", "register_tokens"),
]


def recognises(state: dict[str, Tensor]) -> bool:
    """Return whether the names are timm's."""
    return {MARK, "patch_embed.proj.weight", "pos_embed"} <= state.keys()


def to_ours(state: dict[str, Tensor]) -> Ours:
    """Convert to a MaskedViT with full attention, as timm's is, and without the classifier.

    Raises:
        ValueError: MaskedViT has no counterpart of a parameter (a distillation token, norms of
            queries and keys, a gated FFN), or the size of the image is not known.
    """
    encoder = {name: value for name, value in state.items() if not name.startswith(HEADS)}
    notes = ["the classifier (head) is left out"] if len(encoder) < len(state) else []
    if "reg_token" in encoder:
        encoder = _without_register_positions(encoder)
    positions = encoder["pos_embed"]
    if "cls_token" in encoder and math.isqrt(positions.shape[1]) ** 2 == positions.shape[1]:
        notes.append("the class token, without a position (no_embed_class), gets zeros")
        encoder["pos_embed"] = torch.cat([torch.zeros_like(positions[:, :1]), positions], dim=1)
    encoder = translate(encoder, add_prefixes(ROWS, "", "backbone."), NAME, "a MaskedViT")
    return Ours(encoder, dict(type="xtra_toolkit.Bidirectional"), note="; ".join(notes))


def to_timm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename an encoder's parameters to timm's names.

    Raises:
        ValueError: timm's VisionTransformer has no counterpart of a parameter.
    """
    if {"ln1.weight", "ln2.weight"} <= state.keys():
        raise ValueError(
            f"{NAME} has one final norm, and this encoder has two, of the tokens and of their "
            "mean (ln1, ln2); convert one that was built with out_type='raw' or final_norm=False"
        )
    theirs = translate(state, reverse(ROWS), "a MaskedViT", NAME)
    if "reg_token" in theirs and "cls_token" in theirs:
        # with registers, timm's positions are those of the patches alone (no_embed_class)
        theirs["cls_token"] = theirs["cls_token"] + theirs["pos_embed"][:, :1]
        theirs["pos_embed"] = theirs["pos_embed"][:, 1:]
    return theirs


def _without_register_positions(encoder: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add the positions of registers, if the table has them, to the registers themselves.

    Raises:
        ValueError: It is not known whether the table has them, since neither number of patches is
            a square.
    """
    registers, positions = encoder["reg_token"], encoder["pos_embed"]
    placed, count = int("cls_token" in encoder), registers.shape[1]
    if math.isqrt(positions.shape[1]) ** 2 == positions.shape[1]:
        return encoder  # no_embed_class
    patches = positions.shape[1] - placed - count
    if math.isqrt(patches) ** 2 != patches:
        raise ValueError(
            f"{NAME} of {count} registers has {positions.shape[1]} positions, and it is not known "
            "whether the class token and the registers are among them; only square images can be "
            "converted"
        )
    own, of_registers, rest = positions.split([placed, count, patches], 1)
    return dict(encoder, reg_token=registers + of_registers, pos_embed=torch.cat([own, rest], 1))
