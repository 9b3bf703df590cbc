"""Tables of parameter names, read in either direction.

A row is (theirs, ours). ``{i}`` and ``{k}`` stand for a number; a pattern that ends with a dot
stands for everything under it, any other for one parameter.
"""

import re
from typing import NamedTuple

from torch import Tensor

Rows = list[tuple[str, str]]

# ImageNet's, in pixel values of 0 to 255: what XTRA, AIM and MAE were trained with
IMAGENET = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], order="RGB")

# a transformer layer as timm names it, whom XTRA and MAE follow, and as MMPretrain does
LAYERS: Rows = [
    ("blocks.{i}.norm{k}.", "layers.{i}.ln{k}."),
    ("blocks.{i}.attn.qkv.", "layers.{i}.attn.qkv."),
    ("blocks.{i}.attn.proj.", "layers.{i}.attn.proj."),
    ("blocks.{i}.mlp.fc1.", "layers.{i}.ffn.layers.0.0."),
    ("blocks.{i}.mlp.fc2.", "layers.{i}.ffn.layers.1."),
]
VIT: Rows = [
    ("pos_embed", "pos_embed"),
    ("cls_token", "cls_token"),
    ("patch_embed.proj.", "patch_embed.projection."),
    *LAYERS,
    ("norm.", "ln1."),
]


class Ours(NamedTuple):
    """What a source becomes.

    Args:
        state: under the names of MaskTargetPretrainer, or of a classifier of MMPretrain's.
        mask: config of the mask of its features; None where the source does not tell.
        images: how images enter the encoder, see ``describe_images``; None where the source does
            not tell.
        note: a sentence on what was left out or assumed.
    """

    state: dict[str, Tensor]
    mask: dict | None
    images: dict | None = None
    note: str = ""


def under(rows: Rows, theirs: str, ours: str) -> Rows:
    """The same rows, each side under a prefix."""
    return [(theirs + a, ours + b) for a, b in rows]


def back(rows: Rows) -> Rows:
    """The same rows in the other direction."""
    return [(b, a) for a, b in rows]


def translate(state: dict[str, Tensor], rows: Rows, source: str, target: str) -> dict[str, Tensor]:
    """A state dict under other names; the first row that fits a name renames it.

    Args:
        source, target: whose names they are, for the refusal.

    Raises:
        ValueError: a name that fits no row.
    """
    patterns = [(_pattern(a), b) for a, b in rows]
    names = {name: _rename(name, patterns) for name in state}
    unknown = [name for name, new in names.items() if new is None]
    if unknown:
        raise ValueError(
            f"{target} has no place for {len(unknown)} of the parameters, read as those of "
            f"{source}; the first: {unknown[0]!r}"
        )
    return {names[name]: value for name, value in state.items()}


def _pattern(row: str) -> re.Pattern:
    rest = ".+" if row.endswith(".") else ""
    fields = re.sub(r"\\\{(\w)\\\}", r"(?P<\1>\\d+)", re.escape(row))
    return re.compile(f"{fields}(?P<rest>{rest})")


def _rename(name: str, patterns: list[tuple[re.Pattern, str]]) -> str | None:
    for pattern, new in patterns:
        if match := pattern.fullmatch(name):
            return new.format(**match.groupdict()) + match["rest"]
    return None
