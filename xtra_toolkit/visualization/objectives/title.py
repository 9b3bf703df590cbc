"""Write the mask and the target of a config as a title."""

import re

INNER = ("mask", "target")  # wrapped masks and targets are written first, without a keyword
LONG = 60  # arguments of more characters are abbreviated


def pair(model: dict) -> str:
    """Return the title of a model's config, such as 'BlockCausal(block_size=4) × NextBlock'."""
    return " × ".join(written(model[part]) for part in ("mask", "target_generator"))


def written(value: object) -> str:
    """Write a mask or target of a config as a Python call, with the arguments in the config."""
    if isinstance(value, float):
        return f"{value:g}"
    if not isinstance(value, dict):
        return getattr(value, "__name__", repr(value))
    cls = value.get("type", "dict")
    name = getattr(cls, "__name__", str(cls)).rpartition(".")[2]
    keys = sorted((key for key in value if key != "type"), key=lambda key: key not in INNER)
    arguments = ", ".join(_argument(key, value[key]) for key in keys)
    return f"{name}({arguments})" if arguments else name


def _argument(name: str, value: object) -> str:
    text = written(value)
    if name in INNER:
        return text
    if len(text) > LONG:
        text = re.match(r"\w*", text)[0] + "(…)"
    return f"{name}={text}"
