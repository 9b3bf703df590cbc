"""Find the differences between the configs of several runs."""

from collections.abc import Iterable

from xtra_toolkit.visualization.objectives.title import written

IGNORED = ("work_dir", "experiment_name", "resume", "load_from")  # they do not change training
ABSENT = "not there"


def flat(value: object, name: str = "") -> dict[str, object]:
    """Flatten a config to dotted keys as in --cfg-options; lists of dicts are flattened too."""
    if isinstance(value, dict) and value:
        parts = value.items()
    elif isinstance(value, list | tuple) and any(isinstance(item, dict) for item in value):
        parts = enumerate(value)
    else:
        return {name: value}
    return {
        key: leaf
        for part, inner in parts
        for key, leaf in flat(inner, f"{name}.{part}" if name else str(part)).items()
    }


def differences(configs: Iterable[dict]) -> list[tuple[str, list[str]]]:
    """Return (key, its value in each config) for all keys whose values differ."""
    columns = [flat(config) for config in configs]
    keys = sorted({key for column in columns for key in column})
    return [
        (key, [format_value(column[key]) if key in column else ABSENT for column in columns])
        for key in keys
        if key.split(".")[0] not in IGNORED
        and len({repr(column[key]) if key in column else None for column in columns}) > 1
    ]


def format_value(value: object) -> str:
    """Format a value as one line of text, strings without quotation marks."""
    return value if isinstance(value, str) else written(value)
