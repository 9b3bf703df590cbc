"""From the names and layouts of elad-amrani/xtra (at e711fb5) to ours.

The original concatenates a block's outputs as (width, row, column) and flattens its pixels as
(channel, row, column); ours are token-major, (token, width) and (token, channel, row, column).
"""

import re

from einops import rearrange
from torch import Tensor

NAMES = [
    (r"^enc\.", "backbone."),
    (r"^predictor\.", "neck."),
    (r"^proj\.mlp\.", "neck.projection."),
    (r"^aim_proj\.(\d+)\.mlp\.", r"head.predictors.\1."),
    (r"\.patch_embed\.proj\.", ".patch_embed.projection."),
    (r"\.blocks\.", ".layers."),
    (r"\.norm(\d)\.", r".ln\1."),
    (r"\.mlp\.fc1\.", ".ffn.layers.0.0."),
    (r"\.mlp\.fc2\.", ".ffn.layers.1."),
    (r"^(backbone|neck)\.norm\.", r"\1.ln1."),
]

HEAD = "aim_proj.0.mlp.0.weight"


def rename(name: str) -> str:
    """A parameter's name in the original to ours."""
    for old, new in NAMES:
        name = re.sub(old, new, name)
    return name


def from_original(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of an original XTRA to that of a MaskTargetPretrainer.

    Args:
        state: under the original's names; anything but XTRA's own parts is a ValueError.
    """
    unknown = [n for n in state if not re.match(r"(enc|proj|predictor|aim_proj)\.", n)]
    if unknown:
        raise ValueError(
            f"{len(unknown)} parameters are not of an original XTRA, which has enc, proj, "
            f"predictor and aim_proj; the first: {unknown[0]!r}"
        )
    side = block_side(state) if HEAD in state else 1
    p, q = state["enc.patch_embed.proj.weight"].shape[2:]
    return {rename(name): _token_major(name, value, side, p, q) for name, value in state.items()}


def block_side(state: dict[str, Tensor]) -> int:
    """Tokens along a side of a block, from the widths of the head; ValueError without one."""
    if HEAD not in state:
        raise ValueError(
            "the size of the blocks follows from the head (aim_proj), which this file lacks; "
            "name the encoder's mask (--mask)"
        )
    width = state["predictor.pos_embed"].shape[-1]
    return round((state[HEAD].shape[1] / width) ** 0.5)


def mask_of(state: dict[str, Tensor]) -> dict:
    """Config of the mask of an original XTRA: its blocks, or single tokens."""
    side = block_side(state)
    if side == 1:
        return dict(type="xtra_toolkit.TokenCausal")
    return dict(type="xtra_toolkit.BlockCausal", block_size=side)


def _token_major(name: str, value: Tensor, k: int, p: int, q: int) -> Tensor:
    if not name.startswith("aim_proj."):
        return value
    if name.endswith("mlp.0.weight"):
        return rearrange(value, "h (d t) -> h (t d)", t=k * k)
    if name.endswith(("mlp.2.weight", "mlp.2.bias")):
        return rearrange(value, "(c r p s q) ... -> (r s c p q) ...", r=k, s=k, p=p, q=q)
    return value
