"""Installed plugins: importing this module loads the entry points ``xtra_toolkit.plugins``.

It is the last of every registry's locations: a config finds what a plugin registers in every
process, and a plugin may import all of this package. One that fails does not break the others;
it is named with its cause in a warning, and in the message about an unknown mask or target.
"""

import logging
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points

from mmengine.logging import print_log
from mmengine.registry import Registry

from xtra_toolkit import registry as registries

FAILED: dict[str, str] = {}


def load_plugins() -> None:
    """Load each entry point; failures are kept in ``FAILED`` as 'error: message'."""
    ours = [value for value in vars(registries).values() if isinstance(value, Registry)]
    for point in entry_points(group="xtra_toolkit.plugins"):
        before = [dict(registry.module_dict) for registry in ours]
        try:
            point.load()
        except Exception as error:  # a stranger's code may raise anything
            for registry, names in zip(ours, before, strict=True):
                _take_back(registry, names, point.module.partition(".")[0])
            FAILED[point.name] = _cause(error)
            print_log(
                f"plugin {point.name!r} failed to load: {FAILED[point.name]}",
                logger="current",
                level=logging.WARNING,
            )


def _take_back(registry: Registry, names: dict, package: str) -> None:
    """Restore what a package registered; what it imported of others, this one too, stays."""
    for name, kind in list(registry.module_dict.items()):
        if kind is not names.get(name) and kind.__module__.partition(".")[0] == package:
            del registry.module_dict[name]
            if name in names:
                registry.module_dict[name] = names[name]


def find(registry: Registry, kind: str) -> Callable | None:
    """What is registered as ``kind``, None if nothing is; ValueError if its import fails."""
    try:
        return registry.get(kind)
    except Exception as error:  # of the module that should register it
        raise ValueError(f"{kind!r} cannot be imported: {_cause(error)}") from error


def failures(kind: str = "") -> str:
    """What failed to load, and may be why ``kind`` is unknown; for the end of a sentence.

    MMEngine says nothing where the ``registry`` module of a scope cannot be imported.
    """
    said = [f"plugin {name!r} failed to load: {why}" for name, why in FAILED.items()]
    scope, dot, _ = kind.partition(".")
    if dot and scope != "xtra_toolkit":
        try:
            import_module(f"{scope}.registry")
        except Exception as error:
            said.append(f"{scope}.registry cannot be imported: {_cause(error)}")
    return "".join(f"; {sentence}" for sentence in said)


def _cause(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


load_plugins()
