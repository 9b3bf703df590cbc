"""Convert the original XTRA (elad-amrani/xtra at e711fb5) to our names.

The original concatenates the outputs of a block as (width, row, column) and flattens its pixels as
(channel, row, column). Ours are token-major: (token, width) and (token, channel, row, column).
"""

from einops import rearrange
from torch import Tensor

from xtra_toolkit.weights.names import IMAGENET, VIT, Ours, add_prefixes, translate

NAME, MARK = "elad-amrani/xtra", "enc.patch_embed.proj.weight"
HEAD = "aim_proj.0.mlp.0.weight"
ROWS = [
    *add_prefixes(VIT, "enc.", "backbone."),
    *add_prefixes(VIT, "predictor.", "neck."),
    ("proj.mlp.", "neck.projection."),
    ("aim_proj.{i}.mlp.", "head.predictors.{i}."),
]


def recognises(state: dict[str, Tensor]) -> bool:
    """Return whether the names are those of the original XTRA."""
    return {MARK, "enc.pos_embed"} <= state.keys()


def to_ours(state: dict[str, Tensor]) -> Ours:
    """Convert to a MaskTargetPretrainer; the mask follows from the widths of the head, if any.

    Raises:
        ValueError: The file holds a parameter that XTRA does not have.
    """
    side = _block_side(state)
    p, q = state[MARK].shape[2:]
    state = {name: _token_major(name, value, side or 1, p, q) for name, value in state.items()}
    return Ours(translate(state, ROWS, NAME, "a MaskTargetPretrainer"), _mask(side), IMAGENET)


def _block_side(state: dict[str, Tensor]) -> int | None:
    """Return the tokens along each side of a block; None if the file has no head to tell it."""
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
