"""Read the config and the logs in a working folder as data, without executing anything.

A working folder may come from somebody untrusted. MMEngine writes the config of a run as Python
code (assignments of literals and of calls of ``dict``) and reads it by executing it. Here it is
only parsed.
"""

import ast
import json
import math
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.config.config import RESERVED_KEYS

MOST_BYTES = 10_000_000  # largest config; those of the shipped configs have 10 kB
LARGEST = 2**53  # largest number in a log; float64 represents all integers up to it
NUMBERS = dict(inf=math.inf, nan=math.nan)  # Python prints them so, but they are no literals
COUNTED = ("step", "iter", "epoch")
EXPECTED_TYPES = {  # of the entries that the report reads, by dotted keys
    dict: (
        *("model", "model.backbone", "model.head", "train_cfg", "val_cfg", "test_cfg"),
        *("train_dataloader", "train_dataloader.dataset", "default_hooks", "default_hooks.logger"),
        *("val_dataloader", "val_dataloader.dataset"),
    ),
    str: (
        *("benchmark", "work_dir", "load_from", "model.type", "model.backbone.type"),
        *("train_dataloader.dataset.type", "train_dataloader.dataset.data_root"),
        *("val_dataloader.dataset.type", "val_dataloader.dataset.data_root"),
    ),
    int | float: (
        *("train_cfg.max_epochs", "train_cfg.max_iters", "train_cfg.global_batch"),
        *("train_dataloader.batch_size", "default_hooks.logger.interval"),
    ),
}


def read_config(path: Path) -> tuple[Config, list[str]]:
    """Read a config that MMEngine wrote.

    Statements other than assignments of literals and calls of ``dict`` are left out, and so are
    entries of a type that the report cannot use.

    Returns:
        The config, and a sentence for each part that is left out.

    Raises:
        ValueError: If the file is too large or no Python code.
    """
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"{path} has more than {MOST_BYTES:,} bytes; it is no config of a run")
    try:
        statements = ast.parse(path.read_text(errors="replace")).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"{path} cannot be read as a config: {error}") from error
    entries, notes = {}, []
    for statement in statements:
        try:
            name = _assigned(statement)
            entries[name] = _value(statement.value)
        except (ValueError, TypeError, RecursionError):  # TypeError: a key is a list
            notes.append(
                f"line {statement.lineno} of {path.name} is left out: it is no assignment of plain "
                "values, and a config in a working folder is read as data, not executed"
            )
    for kind, names in EXPECTED_TYPES.items():
        notes += [
            f"{name} is left out: {path.name} has a value of the wrong type for it"
            for name in names
            if _drop(entries, name.split("."), kind)
        ]
    return Config(entries), notes


def _assigned(statement: ast.stmt) -> str:
    """Return the name to which a statement assigns a value."""
    match statement:
        case ast.Assign(targets=[ast.Name(id=name)]) if name not in RESERVED_KEYS:
            return name
    raise ValueError


def _value(node: ast.expr) -> Any:
    """Evaluate a literal or a call of ``dict``; raise a ValueError for anything else."""
    match node:
        case ast.Constant(value=value):
            return value
        case ast.List(elts=items):
            return [_value(item) for item in items]
        case ast.Tuple(elts=items):
            return tuple(_value(item) for item in items)
        case ast.Set(elts=items):
            return {_value(item) for item in items}
        case ast.Dict(keys=keys, values=values) if None not in keys:
            return {_value(key): _value(item) for key, item in zip(keys, values, strict=True)}
        case ast.Call(func=ast.Name(id="dict"), args=[ast.Dict() as entries], keywords=[]):
            return _value(entries)
        case ast.Call(func=ast.Name(id="dict"), args=[], keywords=items) if all(
            item.arg for item in items
        ):
            return {item.arg: _value(item.value) for item in items}
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.Name(id=name) if name in NUMBERS:
            return NUMBERS[name]
    raise ValueError


def _drop(entries: dict, keys: list[str], kind: type) -> bool:
    """Remove the entry at nested keys if it is neither None nor of a type; return if removed."""
    *parents, name = keys
    for part in parents:
        entries = entries.get(part)
        if not isinstance(entries, dict):
            return False
    if name not in entries or entries[name] is None or isinstance(entries[name], kind):
        return False
    del entries[name]
    return True


def read_records(log: Path) -> tuple[list[dict[str, float]], int]:
    """Read the numbers in each line of a log in JSON.

    Returns:
        The records, and the number of unreadable lines. The last line is not counted, because it
        is cut off if the run was killed.
    """
    texts = log.read_text(errors="replace").splitlines() if log.is_file() else []
    records = [_record(text) for text in texts]
    odd = sum(record is None for record in records[:-1])
    return [record for record in records if record is not None], odd


def _record(text: str) -> dict[str, float] | None:
    try:
        line = json.loads(text)
        if not isinstance(line, dict) or not all(_counts(line[k]) for k in COUNTED if k in line):
            return None
    except (ValueError, RecursionError):
        return None
    return {
        key: value
        for key, value in line.items()
        if isinstance(value, float) or (type(value) is int and abs(value) <= LARGEST)
    }


def _counts(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= LARGEST
