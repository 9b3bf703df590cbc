"""A bar on standard error while something takes long; nothing where that is no terminal."""

import sys
from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager
from typing import Any


@contextmanager
def progress(label: str, total: int | None = None) -> Iterator[Callable[[], None]]:
    """A bar for the block, gone after it; only the main process shows one.

    Args:
        label: what is being done.
        total: steps until it is done; None: unknown, the bar swings and counts.

    Yields:
        To be called after each step.
    """
    from mmengine.dist import is_main_process  # it imports torch

    if not (sys.stderr.isatty() and is_main_process()):
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = [TextColumn(label, markup=False), BarColumn(), MofNCompleteColumn()]
    columns += [TimeElapsedColumn(), TextColumn("elapsed"), TimeRemainingColumn()]
    with Progress(
        *columns,
        console=Console(file=sys.stderr),
        transient=True,
        redirect_stdout=False,  # to standard error, that is: a pipe would miss it
    ) as bar:
        task = bar.add_task("", total=total)
        yield lambda: bar.advance(task)


def watched(items: Sized, label: str) -> Iterator[Any]:
    """The items, and a bar of how many have gone."""
    with progress(label, len(items)) as advance:
        for item in items:
            yield item
            advance()
