"""elad-amrani/xtra (at e711fb5) to ours.

The original concatenates a block's outputs as (width, row, column) and flattens its pixels as
(channel, row, column); ours are token-major, (token, width) and (token, channel, row, column).
"""

from einops import rearrange
from torch import Tensor

from xtra_toolkit.weights.names import IMAGENET, VIT, Ours, translate, under

NAME, MARK = "elad-amrani/xtra", "enc.patch_embed.proj.weight"
HEAD = "aim_proj.0.mlp.0.weight"
ROWS = [
    *under(VIT, "enc.", "backbone."),
    *under(VIT, "predictor.", "neck."),
    ("proj.mlp.", "neck.projection."),
    ("aim_proj.{i}.mlp.", "head.predictors.{i}."),
]


def recognises(state: dict[str, Tensor]) -> bool:
    """Are these names an original XTRA's?"""
    return {MARK, "enc.pos_embed"} <= state.keys()


def to_ours(state: dict[str, Tensor]) -> Ours:
    """To a MaskTargetPretrainer; the mask follows from the widths of the head, if there is one.

    Raises:
        ValueError: anything but XTRA's own parts.
    """
    side = _block_side(state)
    p, q = state[MARK].shape[2:]
    major = {name: _token_major(name, value, side or 1, p, q) for name, value in state.items()}
    return Ours(translate(major, ROWS, NAME, "a MaskTargetPretrainer"), _mask(side), IMAGENET)


def _block_side(state: dict[str, Tensor]) -> int | None:
    """Tokens along a side of a block; None without the head, from which it follows."""
    if HEAD not in state:
        return None
    width = state["predictor.pos_embed"].shape[-1]
    return round((state[HEAD].shape[1] / width) ** 0.5)


def _mask(side: int | None) -> dict | None:
    if side is None:
        return None
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
