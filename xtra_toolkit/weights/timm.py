"""timm's VisionTransformer (1.0) to an encoder of ours, and back.

The names of an encoder of ours are those of MMPretrain's VisionTransformer. timm has a norm behind
the tokens (``norm``) or one behind the pooling (``fc_norm``: our out_type='avg_featmap' with
final_norm=False). The number of heads, the eps of the norms and the activation stand in no file.
"""

import math

import torch
from torch import Tensor

from xtra_toolkit.weights.names import VIT, Ours, back, translate, under

NAME, MARK = "timm's VisionTransformer", "blocks.0.norm1.weight"
HEADS = ("head.", "head_dist.")
ROWS = [
    *VIT,
    ("patch_embed.norm.", "patch_embed.norm."),
    ("norm_pre.", "pre_norm."),
    ("blocks.{i}.ls1.gamma", "layers.{i}.attn.gamma1.weight"),
    ("blocks.{i}.ls2.gamma", "layers.{i}.ffn.gamma2.weight"),
    ("fc_norm.", "ln2."),
]


def recognises(state: dict[str, Tensor]) -> bool:
    """Are these names timm's?"""
    return {MARK, "patch_embed.proj.weight", "pos_embed"} <= state.keys()


def to_ours(state: dict[str, Tensor]) -> Ours:
    """To a MaskedViT without the classifier; timm's attention is full, and so is the mask.

    Raises:
        ValueError: a parameter that MaskedViT has no place for (registers, a distillation token,
            norms of queries and keys, a gated FFN).
    """
    encoder = {name: value for name, value in state.items() if not name.startswith(HEADS)}
    notes = ["the classifier (head) is left out"] if len(encoder) < len(state) else []
    table = encoder["pos_embed"]
    if "cls_token" in encoder and math.isqrt(table.shape[1]) ** 2 == table.shape[1]:
        notes.append("the class token, without a position (no_embed_class), gets zeros")
        encoder["pos_embed"] = torch.cat([torch.zeros_like(table[:, :1]), table], dim=1)
    encoder = translate(encoder, under(ROWS, "", "backbone."), NAME, "a MaskedViT")
    return Ours(encoder, dict(type="xtra_toolkit.Bidirectional"), note="; ".join(notes))


def to_timm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """An encoder's state dict under timm's names.

    Raises:
        ValueError: a parameter that timm has no place for.
    """
    if {"ln1.weight", "ln2.weight"} <= state.keys():
        raise ValueError(
            f"{NAME} normalises once, and this encoder twice, tokens and their mean (ln1, ln2); "
            "convert one that was built with out_type='raw' or with final_norm=False"
        )
    return translate(state, back(ROWS), "a MaskedViT", NAME)
