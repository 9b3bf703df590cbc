"""Read the text of a config without executing it, and compare it with that of a resumed run."""

import ast
from collections.abc import Iterator, Mapping
from typing import Any

RESTORED = ("optim_wrapper.optimizer", "param_scheduler")  # the checkpoint holds their state
COMPARED = (*RESTORED, "optim_wrapper", "model", "train_dataloader.dataset", "train_cfg")
MOST = 8  # sentences


def read_config_text(text: str) -> dict[str, Any]:
    """Return the values of a config that MMEngine wrote; an empty dict if it is none.

    Nothing is executed: only literals and ``dict(...)`` are read, and other values are left out.
    """
    try:
        statements = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    return {
        target.id: _value(statement.value)
        for statement in statements
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name)
    }


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
        return {part.arg: _value(part.value) for part in node.keywords}
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(item) for item in node.elts]
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        return {_value(key): _value(value) for key, value in pairs if key is not None}
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError):
        return None


def flatten(value: Any, name: str = "") -> dict[str, Any]:
    """Return the plain values of nested dictionaries and lists by their dotted keys."""
    if isinstance(value, list | tuple):
        value = dict(enumerate(value))
    if not isinstance(value, Mapping):
        return {name: value}
    inner = (flatten(item, f"{name}.{key}" if name else str(key)) for key, item in value.items())
    return {key: item for part in inner for key, item in part.items()}


def resumed_differences(former: str, config: Mapping) -> Iterator[str]:
    """Yield a sentence for each key in which a resumed run differs from the run so far.

    Args:
        former: Text of the config of the run so far, from its checkpoint.
        config: The config of the resumed run.
    """
    before = flatten(read_config_text(former))
    plain = (int, float, str)
    after = {k: v if isinstance(v, plain) else None for k, v in flatten(config).items()}
    if not before or not after:
        return
    absent = "absent"
    keys = [key for key in sorted(before.keys() | after.keys()) if _below(key, COMPARED)]
    keys = [key for key in keys if before.get(key, absent) != after.get(key, absent)]
    if len(keys) > MOST:
        sections = dict.fromkeys(key.split(".")[0] for key in keys[MOST - 1 :])
        yield (
            f"Resuming: {len(keys) - MOST + 1} more keys differ from the run so far, in "
            f"{', '.join(sections)}."
        )
        keys = keys[: MOST - 1]
    for key in keys:
        old, new = before.get(key, absent), after.get(key, absent)
        if _below(key, RESTORED):
            yield f"Resuming: {key} is {old}, as in the run so far, and not {new}."
        else:
            yield f"Resuming: {key} is {new} from now on; it was {old} in the run so far."


def _below(key: str, sections: tuple[str, ...]) -> bool:
    return any(key == section or key.startswith(f"{section}.") for section in sections)
