"""Read what a run left in its working folder as data: nothing in it is executed.

A working folder may be a stranger's. MMEngine writes a run's config as Python, assignments of
literals and of calls of ``dict``, and reads it by running it. Here it is parsed.
"""

import ast
import json
import math
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.config.config import RESERVED_KEYS

MOST_BYTES = 10_000_000  # of a config; MMEngine's dump of a shipped one has 10 kB
LARGEST = 2**53  # of a number in a log: up to here float64 tells whole numbers apart
NUMBERS = dict(inf=math.inf, nan=math.nan)  # as Python prints them, which are no literals
COUNTED = ("step", "iter", "epoch")
KINDS = {  # what the report works with, by dotted keys
    dict: (
        *("model", "model.backbone", "model.head", "train_cfg", "val_cfg", "test_cfg"),
        *("train_dataloader", "train_dataloader.dataset", "default_hooks", "default_hooks.logger"),
    ),
    str: ("benchmark", "work_dir", "load_from", "model.type", "model.backbone.type"),
    int | float: (
        *("train_cfg.max_epochs", "train_cfg.max_iters", "train_cfg.global_batch"),
        *("train_dataloader.batch_size", "default_hooks.logger.interval"),
    ),
}


def read_config(path: Path) -> tuple[Config, list[str]]:
    """The config that MMEngine wrote, and a sentence for each part that is left out.

    Left out is a statement that is no assignment of literals and calls of ``dict``, and an entry
    of another type than the report can work with.

    Raises:
        ValueError: the file is too large or no Python.
    """
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"{path} has more than {MOST_BYTES:,} bytes; it is no config of a run")
    try:
        statements = ast.parse(path.read_text(errors="replace")).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"{path} cannot be read as a config: {error}") from error
    found, notes = {}, []
    for statement in statements:
        try:
            name = _assigned(statement)
            found[name] = _value(statement.value)
        except (ValueError, TypeError, RecursionError):  # TypeError: a list as a key
            notes.append(
                f"line {statement.lineno} of {path.name} is left out: it is no assignment of plain "
                "values, and a config in a working folder is read as data, not executed"
            )
    for kind, names in KINDS.items():
        notes += [
            f"{name} is left out: {path.name} has a value of the wrong type for it"
            for name in names
            if _drop(found, name.split("."), kind)
        ]
    return Config(found), notes


def _assigned(statement: ast.stmt) -> str:
    """The name that a statement gives a value to."""
    match statement:
        case ast.Assign(targets=[ast.Name(id=name)]) if name not in RESERVED_KEYS:
            return name
    raise ValueError


def _value(node: ast.expr) -> Any:
    """The value of a literal, with calls of ``dict`` by keywords in it; ValueError for others."""
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


def _drop(found: dict, parts: list[str], kind: type) -> bool:
    """Remove the entry at these keys if it is there and neither None nor of that kind."""
    *above, name = parts
    for part in above:
        found = found.get(part)
        if not isinstance(found, dict):
            return False
    if name not in found or found[name] is None or isinstance(found[name], kind):
        return False
    del found[name]
    return True


def read_records(log: Path) -> tuple[list[dict[str, float]], int]:
    """The lines of a log in JSON, their numbers alone, and how many lines hold no such thing.

    The last line, which a kill may have cut off, is not counted.
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
