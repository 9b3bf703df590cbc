"""Load the installed plugins, the entry points ``xtra_toolkit.plugins``.

A plugin that fails does not break the others: a warning and the message about an unknown mask or
target name it with its cause.
"""

import logging
import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import EntryPoint, distributions

from mmengine.logging import print_log
from mmengine.registry import Registry

from xtra_toolkit import registry as registries

GROUP = "xtra_toolkit.plugins"
FAILED: dict[str, str] = {}


def installed() -> dict[str, EntryPoint]:
    """The plugins' entry points by name; a malformed file of them is named in ``FAILED``."""
    found: dict[str, EntryPoint] = {}
    for distribution in distributions():
        try:
            points = distribution.entry_points.select(group=GROUP)
        except Exception as error:  # TypeError, ValueError: whatever its parser stumbles over
            name = distribution.metadata["Name"] or "of no name"
            _failed(name, f"its entry_points.txt cannot be read ({_cause(error)})")
            continue
        for point in points:
            found.setdefault(point.name, point)
    return found


def packages() -> set[str]:
    """The top-level packages of the installed plugins."""
    return {_package(point) for point in installed().values()}


def load_plugins() -> None:
    """Load each entry point; failures are kept in ``FAILED`` as 'error: message'."""
    points = installed()
    ours = [value for value in vars(registries).values() if isinstance(value, Registry)]
    if points:  # what a plugin must not replace has to be there before it
        for place in ("masks", "targets", "models"):
            import_module(f"xtra_toolkit.{place}")
    for point in points.values():
        before = [dict(registry.module_dict) for registry in ours]
        try:
            with _interruptible() as interrupted:
                point.load()
            _refuse_replaced(ours, before)
        except BaseException as error:  # a stranger's code may raise anything, SystemExit too
            if interrupted and isinstance(error, KeyboardInterrupt):
                raise
            for registry, names in zip(ours, before, strict=True):
                _take_back(registry, names, _package(point))
            _failed(point.name, _cause(error))


def _failed(name: str, why: str) -> None:
    if FAILED.get(name) != why:  # said once
        FAILED[name] = why
        print_log(f"plugin {name!r} failed to load: {why}", logger="current", level=logging.WARNING)


def _package(point: EntryPoint) -> str:
    return re.match(r"\w*", point.value.strip())[0]


@contextmanager
def _interruptible() -> Iterator[list]:
    """A list that is filled when the user interrupts: code may raise KeyboardInterrupt itself."""
    interrupted: list = []
    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return

    def note(number: int, frame: object) -> None:
        interrupted.append(number)
        before(number, frame)

    before = signal.getsignal(signal.SIGINT)
    if callable(before):
        signal.signal(signal.SIGINT, note)
    try:
        yield interrupted
    finally:
        if signal.getsignal(signal.SIGINT) is note:
            signal.signal(signal.SIGINT, before)


def _refuse_replaced(ours: list[Registry], before: list[dict]) -> None:
    """ValueError where a name that was registered stands for something else now."""
    for registry, names in zip(ours, before, strict=True):
        for name, kind in names.items():
            if registry.module_dict.get(name) is not kind:
                raise ValueError(
                    f"it replaces the {registry.name} {name!r}, which was there before it "
                    "(force=True), and is left out; register under a name of its own"
                )


def _take_back(registry: Registry, names: dict, package: str) -> None:
    """Restore what a package registered; what it imported of others, this one too, stays."""
    for name, kind in list(registry.module_dict.items()):
        module = getattr(kind, "__module__", None) or ""
        if kind is not names.get(name) and module.partition(".")[0] == package:
            del registry.module_dict[name]
    registry.module_dict.update(names)


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


def _cause(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
