"""What tells the configs of several runs apart."""

from collections.abc import Iterable

from xtra_toolkit.visualization.objectives.title import written

IGNORED = ("work_dir", "experiment_name", "resume", "load_from")  # of starts, not of training
ABSENT = "not there"


def flat(value: object, name: str = "") -> dict[str, object]:
    """A config by dotted keys, as --cfg-options takes them; lists of parts are entered."""
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
    """(key, its value in each) of the keys that are not the same in all."""
    columns = [flat(config) for config in configs]
    keys = sorted({key for column in columns for key in column})
    return [
        (key, [shown(column[key]) if key in column else ABSENT for column in columns])
        for key in keys
        if key.split(".")[0] not in IGNORED
        and len({repr(column[key]) if key in column else None for column in columns}) > 1
    ]


def shown(value: object) -> str:
    """A value as a line of text; words without quotation marks."""
    return value if isinstance(value, str) else written(value)
