"""From MMPretrain's names of a ViT, which are ours, to timm's."""

import re

from torch import Tensor

NAMES = [
    (r"^(pos_embed|cls_token)$", r"\1"),
    (r"^patch_embed\.projection\.", "patch_embed.proj."),
    (r"^pre_norm\.", "norm_pre."),
    (r"^ln1\.", "norm."),
    (r"^layers\.(\d+)\.ln(\d)\.", r"blocks.\1.norm\2."),
    (r"^layers\.(\d+)\.attn\.(qkv|proj)\.", r"blocks.\1.attn.\2."),
    (r"^layers\.(\d+)\.ffn\.layers\.0\.0\.", r"blocks.\1.mlp.fc1."),
    (r"^layers\.(\d+)\.ffn\.layers\.1\.", r"blocks.\1.mlp.fc2."),
    (r"^layers\.(\d+)\.(?:attn|ffn)\.gamma(\d)\.weight$", r"blocks.\1.ls\2.gamma"),
]


def to_timm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """An encoder's state dict under the names of timm's VisionTransformer.

    Raises:
        ValueError: a parameter that timm's VisionTransformer has no place for.
    """
    return {rename(name): value for name, value in state.items()}


def rename(name: str) -> str:
    """MMPretrain's name of a parameter to timm's."""
    for old, new in NAMES:
        renamed, found = re.subn(old, new, name)
        if found:
            return renamed
    raise ValueError(f"timm's VisionTransformer has no place for the parameter {name!r}")
