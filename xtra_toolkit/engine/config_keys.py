"""Refuse keys of a config that nothing reads."""

import inspect
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any

import mmengine.registry
from mmengine.config import Config
from mmengine.hooks import CheckpointHook
from mmengine.registry import METRICS, Registry
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from xtra_toolkit.registry import MASKS, ORDERS

TOP = {*inspect.signature(Runner.__init__).parameters, "compile", "runner_type", "strategy"}
TOP |= {"auto_scale_lr", "model_wrapper_cfg", "activation_checkpointing", "find_unused_parameters"}
TOP -= {"self", "cfg"}
OWN = "xtra_toolkit"
PLAIN = {OWN, "mmengine", "torch"}  # these build what they are given without taking it apart
ROOTS = [r for r in vars(mmengine.registry).values() if isinstance(r, Registry)] + [MASKS, ORDERS]
# MMEngine and MMCV take these out of a section before they call what its type names
TAKEN_OUT = {"type", "_scope_", "_delete_", "by_epoch", "num_batch_per_epoch", "priority"}
TAKEN_OUT |= {"constructor", "paramwise_cfg", "convert_to_iter_based", "requires_grad", "override"}


def refuse_unknown_keys(cfg: dict, keys: Iterable[str]) -> None:
    """Look up each dotted key of an override in a config before it is merged.

    A key is known if the config has it, if the runner reads it, or if what its section's ``type``
    names takes it as an argument.

    Raises:
        ValueError: A key is unknown; the nearest known ones are named.
    """
    for key in keys:
        _follow(cfg, key)


def refuse_unknown_arguments(cfg: dict | Config) -> None:
    """Look up every key in the sections of a whole config that the runner reads.

    A section with a ``type`` may hold the arguments of what the type names, and one of a data
    loader those of torch's. Sections without a type are not checked, nor types that take any
    argument. A class of another package may take keys out of the sections that it is given, so
    only those are checked in it that name a type of this package, such as a ``MaskedViT`` in
    MMPretrain's classifier.

    Raises:
        ValueError: A key is unknown; the nearest known ones are named.
    """
    sections = cfg.to_dict() if isinstance(cfg, Config) else cfg
    scope = sections.get("default_scope") or "mmengine"
    for name in sections:
        if name in TOP:
            _check_section(sections[name], [name], scope)


def _check_section(section: Any, path: list[str], scope: str, builder: str = "mmengine") -> None:
    """Check a section that a class of the package ``builder`` receives."""
    kinds: list[Any] = []
    if isinstance(section, list | tuple):
        section = {str(number): value for number, value in enumerate(section)}
    elif isinstance(section, dict):
        scope = section.get("_scope_", scope)
        kinds = kinds_of(path, section, scope)
    else:
        return
    packages = [kind.__module__.partition(".")[0] for kind in kinds]
    known = known_keys(kinds) if builder in PLAIN or OWN in packages else None
    for key, value in section.items():
        if known is not None and key not in known:
            raise ValueError(unknown([*path, key], len(path), sorted(known)))
        _check_section(value, [*path, str(key)], scope, packages[0] if packages else builder)


def _follow(cfg: dict, key: str) -> None:
    parts, value, scope = key.split("."), cfg, cfg.get("default_scope") or "mmengine"
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
            known = known_keys(kinds_of(parts[:number], value, scope)) if number else TOP
            if known is None or part in known:
                return
            raise ValueError(unknown(parts, number, sorted({*known, *value})))
        value = value[part]


def unknown(parts: Sequence[str], number: int, known: Sequence[str]) -> str:
    """Say that a part of a key is unknown, and which known one may be meant."""
    before = ".".join(parts[:number])
    near = [".".join([*parts[:number], k]) for k in get_close_matches(parts[number], known, 2, 0.5)]
    valid = [key for key in known if key not in TAKEN_OUT]
    hint = f"Did you mean {' or '.join(near)}?" if near else f"It has {', '.join(valid)}."
    where = f"{before} has no key {parts[number]!r}" if before else "the config has no such key"
    return f"{'.'.join(parts)} was given, and {where}. {hint}"


def known_keys(kinds: Sequence[Any]) -> set[str] | None:
    """Return the keys that a section of one of these types may have; None if any key is valid."""
    taken = [arguments(kind) for kind in kinds]
    return None if not taken or None in taken else TAKEN_OUT.union(*taken)


def arguments(kind: Any) -> set[str] | None:
    """Return the names of the arguments of a class or a function; None if it takes any name.

    A class that takes any name may pass them to the next class, whose names are then added.
    """
    names = set()
    for base in kind.__mro__[:-1] if inspect.isclass(kind) else [kind]:
        call = base.__dict__.get("__init__") if inspect.isclass(kind) else base
        if call is None:
            continue
        try:
            parameters = inspect.signature(call).parameters.values()
        except ValueError:  # some compiled functions have none
            return None
        kinds = {p.kind for p in parameters}
        names |= {p.name for p in parameters}
        if inspect.Parameter.VAR_KEYWORD not in kinds:
            return names - {"self"}
        if base is CheckpointHook:
            return names | arguments(Runner.save_checkpoint)
    return None


def kinds_of(path: Sequence[str], section: dict, scope: str) -> list[Any]:
    """Return what the ``type`` of a section is registered as, in every registry."""
    kind = section.get("type", DataLoader if path[-1].endswith("_dataloader") else None)
    if not isinstance(kind, str):
        return [kind] * callable(kind)
    found = []
    for root in ROOTS:
        if root is METRICS and not path[0].endswith("_evaluator"):
            continue  # some metrics have the name of a data set
        prefixed = "." in kind or root.scope == OWN  # masks and orders need no prefix
        try:
            found.append(root.get(kind if prefixed else f"{scope}.{kind}"))
        except Exception:  # of an import, or for an unknown name; building the section reports it
            continue
    return [each for each in found if callable(each)]
