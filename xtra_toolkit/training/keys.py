"""Refuse overrides of config keys that nothing reads."""

import inspect
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any

from mmengine.registry import (
    OPTIMIZERS,
    PARAM_SCHEDULERS,
    DefaultScope,
    Registry,
    init_default_scope,
)
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from xtra_toolkit import registry

TOP = {*inspect.signature(Runner.__init__).parameters, "compile", "runner_type", "strategy"}
TOP |= {"auto_scale_lr", "model_wrapper_cfg", "activation_checkpointing", "find_unused_parameters"}
TOP -= {"self", "cfg"}


def refuse_unknown_keys(cfg: dict, keys: Iterable[str]) -> None:
    """Look up each dotted key of an override in a config before it is merged.

    A key is known if the config has it, if the runner reads it, or if the class that its ``type``
    names takes it as an argument.

    Raises:
        ValueError: A key is unknown; the nearest known ones are named.
    """
    if DefaultScope.get_current_instance() is None:
        init_default_scope("mmpretrain")
    for key in keys:
        _follow(cfg, key)


def _follow(cfg: Any, key: str) -> None:
    parts, value = key.split("."), cfg
    for number, part in enumerate(parts):
        if isinstance(value, list | tuple):
            if not part.isdecimal() or int(part) >= len(value):
                raise ValueError(
                    f"{key} was given, and {'.'.join(parts[:number])} is a list of {len(value)}; "
                    f"write one of its numbers, 0 to {len(value) - 1}, in place of {part!r}."
                )
            value = value[int(part)]
            continue
        if not isinstance(value, dict):
            return  # a plain value is replaced by a dictionary
        if part not in value:
            known = sorted(TOP | {*value}) if number == 0 else known_keys(parts[number - 1], value)
            if known is None or part in known:
                return
            raise ValueError(unknown(parts, number, known))
        value = value[part]


def unknown(parts: Sequence[str], number: int, known: Sequence[str]) -> str:
    """Say that a part of a key is unknown, and which known one may be meant."""
    before = ".".join(parts[:number])
    near = [".".join([*parts[:number], k]) for k in get_close_matches(parts[number], known, 2, 0.5)]
    hint = f"Did you mean {' or '.join(near)}?" if near else f"It has {', '.join(known)}."
    where = f"{before} has no key {parts[number]!r}" if before else "the config has no such key"
    return f"{'.'.join(parts)} was given, and {where}. {hint}"


def known_keys(name: str, section: dict) -> list[str] | None:
    """Return the keys that the section ``name`` may have; None where that cannot be known."""
    kind = section.get("type", DataLoader if name.endswith("_dataloader") else None)
    if kind is None:
        return None
    found = find_class(kind) if isinstance(kind, str) else kind
    if not inspect.isclass(found):
        return None
    names, open_end = set(section) | {"type", "_scope_", "_delete_"}, True
    for base in found.__mro__:
        init = base.__dict__.get("__init__")
        if init is None or base is object:
            continue
        parameters = inspect.signature(init).parameters.values()
        named = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
        names |= {p.name for p in parameters if p.kind not in named}
        open_end = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
        if not open_end:
            break
    return None if open_end else sorted(names - {"self"})


def find_class(name: str) -> Any:
    """Return what a name is registered as, in any registry; None if it is in none."""
    own = [value for value in vars(registry).values() if isinstance(value, Registry)]
    return next(
        (found for each in [*own, OPTIMIZERS, PARAM_SCHEDULERS] if (found := each.get(name))), None
    )
