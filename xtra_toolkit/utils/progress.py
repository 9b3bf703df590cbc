"""Show a progress bar on standard error, if that is a terminal."""

import sys
from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager
from typing import Any


@contextmanager
def progress(label: str, total: int | None = None) -> Iterator[Callable[[], None]]:
    """Show a bar in the main process for as long as the block runs.

    Args:
        label: What is being done.
        total: Number of steps. None if it is unknown; the bar then moves to and fro and counts.

    Yields:
        A function to call after each step.
    """
    from mmengine.dist import is_main_process  # imported here, since it imports torch

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
        redirect_stdout=False,  # rich would redirect it to standard error, and a pipe would miss it
    ) as bar:
        task = bar.add_task("", total=total)
        yield lambda: bar.advance(task)


def watched(items: Sized, label: str) -> Iterator[Any]:
    """Yield the items, and show a bar of how many have been processed."""
    with progress(label, len(items)) as advance:
        for item in items:
            yield item
            advance()
