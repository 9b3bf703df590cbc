"""The title of an objective: its mask and its target, as its config gives them."""

import re

INNER = ("mask", "target")  # what a mask or a target wraps comes first, and needs no name
LONG = 60  # characters of an argument that is only hinted at


def pair(model: dict) -> str:
    """'Reordered(BlockCausal(block_size=4), order=Spiral) × NextBlock', of a model's config."""
    return " × ".join(written(model[part]) for part in ("mask", "target_generator"))


def written(value: object) -> str:
    """A part of a config as a call, without prefixes and without defaults that it leaves out."""
    if isinstance(value, float):
        return f"{value:g}"
    if not isinstance(value, dict):
        return getattr(value, "__name__", repr(value))
    kind = value.get("type", "dict")
    name = getattr(kind, "__name__", str(kind)).rpartition(".")[2]
    given = sorted((key for key in value if key != "type"), key=lambda key: key not in INNER)
    arguments = ", ".join(_argument(key, value[key]) for key in given)
    return f"{name}({arguments})" if arguments else name


def _argument(name: str, value: object) -> str:
    text = written(value)
    if name in INNER:
        return text
    if len(text) > LONG:
        text = re.match(r"\w*", text)[0] + "(…)"
    return f"{name}={text}"
