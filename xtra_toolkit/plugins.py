"""Load the installed plugins: the entry points of the group ``xtra_toolkit.plugins``.

A plugin that fails to load does not break the others. A warning names it with the cause, and so
does the message about an unknown mask or target.
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
FAILED: dict[str, str] = {}  # name of a plugin that failed to load -> "error: message"


def installed() -> dict[str, EntryPoint]:
    """Return the entry points of the plugins by name; record unreadable ones in ``FAILED``."""
    found: dict[str, EntryPoint] = {}
    for distribution in distributions():
        try:
            points = distribution.entry_points.select(group=GROUP)
        except Exception as error:  # the parser of entry_points.txt raises errors of many classes
            name = distribution.metadata["Name"] or "without a name"
            _record_failure(name, f"its entry_points.txt cannot be read ({_describe(error)})")
            continue
        for point in points:
            found.setdefault(point.name, point)
    return found


def packages() -> set[str]:
    """Return the top-level packages of the installed plugins."""
    return {_package(point) for point in installed().values()}


def load_plugins() -> None:
    """Load each installed plugin; record failures in ``FAILED``."""
    points = installed()
    own_registries = [value for value in vars(registries).values() if isinstance(value, Registry)]
    if points:  # register our own names first, so that a plugin that replaces one is noticed
        for module in ("masks", "targets", "models"):
            import_module(f"xtra_toolkit.{module}")
    for point in points.values():
        registered = [dict(registry.module_dict) for registry in own_registries]
        try:
            with _record_interrupts() as interrupts:
                point.load()
            _refuse_replacements(own_registries, registered)
        except BaseException as error:  # a plugin may raise anything, SystemExit included
            if interrupts and isinstance(error, KeyboardInterrupt):
                raise
            for registry, names in zip(own_registries, registered, strict=True):
                _unregister(registry, names, _package(point))
            _record_failure(point.name, _describe(error))


def _record_failure(name: str, reason: str) -> None:
    if FAILED.get(name) != reason:  # warn once
        FAILED[name] = reason
        message = f"plugin {name!r} failed to load: {reason}"
        print_log(message, logger="current", level=logging.WARNING)


def _package(point: EntryPoint) -> str:
    return re.match(r"\w*", point.value.strip())[0]


@contextmanager
def _record_interrupts() -> Iterator[list]:
    """Yield a list to which each SIGINT is appended.

    It tells an interrupt by the user from a KeyboardInterrupt that the code raises itself.
    """
    interrupts: list = []
    if threading.current_thread() is not threading.main_thread():
        yield interrupts
        return

    def record(number: int, frame: object) -> None:
        interrupts.append(number)
        handler(number, frame)

    handler = signal.getsignal(signal.SIGINT)
    if callable(handler):
        signal.signal(signal.SIGINT, record)
    try:
        yield interrupts
    finally:
        if signal.getsignal(signal.SIGINT) is record:
            signal.signal(signal.SIGINT, handler)


def _refuse_replacements(own_registries: list[Registry], registered: list[dict]) -> None:
    """Raise a ValueError if a name that was registered now stands for something else."""
    for registry, names in zip(own_registries, registered, strict=True):
        for name, kind in names.items():
            if registry.module_dict.get(name) is not kind:
                raise ValueError(
                    f"it replaces the {registry.name} {name!r}, which was registered before it "
                    "(force=True), so it is not loaded; register under another name"
                )


def _unregister(registry: Registry, names: dict, package: str) -> None:
    """Remove what the modules of a package registered, and restore the names of before.

    What other packages, this one included, registered while they were imported stays.
    """
    for name, kind in list(registry.module_dict.items()):
        module = getattr(kind, "__module__", None) or ""
        if kind is not names.get(name) and module.partition(".")[0] == package:
            del registry.module_dict[name]
    registry.module_dict.update(names)


def find(registry: Registry, kind: str) -> Callable | None:
    """Return what is registered as ``kind``, or None.

    Raises:
        ValueError: The module that should register it cannot be imported.
    """
    try:
        return registry.get(kind)
    except Exception as error:  # the imported module may raise anything
        raise ValueError(f"{kind!r} cannot be imported: {_describe(error)}") from error


def failures(kind: str = "") -> str:
    """Return what failed to load, as clauses for the end of a message about an unknown ``kind``.

    The ``registry`` module of the scope of ``kind`` is tried too, since MMEngine is silent if it
    cannot be imported.
    """
    clauses = [f"plugin {name!r} failed to load: {reason}" for name, reason in FAILED.items()]
    scope, dot, _ = kind.partition(".")
    if dot and scope != "xtra_toolkit":
        try:
            import_module(f"{scope}.registry")
        except Exception as error:
            clauses.append(f"{scope}.registry cannot be imported: {_describe(error)}")
    return "".join(f"; {clause}" for clause in clauses)


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
