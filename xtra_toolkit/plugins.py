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

FAILED: dict[str, str] = {}


def load_plugins() -> None:
    """Load each entry point; failures are kept in ``FAILED`` as 'error: message'."""
    for point in entry_points(group="xtra_toolkit.plugins"):
        try:
            point.load()
        except Exception as error:  # a stranger's code may raise anything
            FAILED[point.name] = _cause(error)
            print_log(
                f"plugin {point.name!r} failed to load: {FAILED[point.name]}",
                logger="current",
                level=logging.WARNING,
            )


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
