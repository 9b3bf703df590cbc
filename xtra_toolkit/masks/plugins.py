"""Installed plugins: entry points of the group ``xtra_toolkit.plugins`` are loaded here.

One that fails does not break the others; the message about an unknown mask names it.
"""

from importlib.metadata import entry_points

FAILED: dict[str, str] = {}


def load_plugins() -> None:
    """Load each entry point; failures are kept in ``FAILED`` as 'error: message'."""
    for point in entry_points(group="xtra_toolkit.plugins"):
        try:
            point.load()
        except Exception as error:  # a stranger's code may raise anything
            FAILED[point.name] = f"{type(error).__name__}: {error}"


def failures() -> str:
    """The plugins that failed to load, for the end of a sentence about an unknown name."""
    return "".join(f"; plugin {name!r} failed to load: {why}" for name, why in FAILED.items())
