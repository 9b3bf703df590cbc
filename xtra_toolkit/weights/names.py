"""Rename parameters by tables, which can be used in both directions.

A row is (their name, our name). ``{i}`` and ``{k}`` stand for a number. A name that ends with a dot
stands for all parameters with this prefix, and any other name for one parameter.
"""

import re
from typing import NamedTuple

from torch import Tensor

Rows = list[tuple[str, str]]

# ImageNet's mean and standard deviation in pixel values of 0 to 255, as in XTRA, AIM and MAE
IMAGENET = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], order="RGB")

# The parameters of a layer: timm's names, which XTRA and MAE use, and MMPretrain's
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
    """Hold a converted state dict, and what its source tells of the mask and the images.

    Args:
        state: The weights under the names of MaskTargetPretrainer, or of MMPretrain's classifier.
        mask: Config of the mask of the encoder's features; None if the source does not tell it.
        images: Record of how images enter the encoder, see ``describe_images``; None if the
            source does not tell it.
        note: A sentence on what was left out or assumed.
    """

    state: dict[str, Tensor]
    mask: dict | None
    images: dict | None = None
    note: str = ""


def add_prefixes(rows: Rows, theirs: str, ours: str) -> Rows:
    """Return the rows with a prefix before their name and one before ours."""
    return [(theirs + a, ours + b) for a, b in rows]


def reverse(rows: Rows) -> Rows:
    """Return the rows for the other direction."""
    return [(b, a) for a, b in rows]


def translate(state: dict[str, Tensor], rows: Rows, source: str, target: str) -> dict[str, Tensor]:
    """Rename the parameters of a state dict; the first row that matches a name is used.

    Args:
        state: The state dict.
        rows: Pairs of the old and the new name.
        source, target: What the old and the new names belong to, for the message.

    Raises:
        ValueError: A name matches no row.
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
