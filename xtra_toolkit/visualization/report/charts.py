"""Which plots a page has, of what its runs logged."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes

from xtra_toolkit.visualization.report.facts import RunColumn
from xtra_toolkit.visualization.report.plots import (
    COLOURS,
    FEW,
    INK,
    MARKERS,
    RAMP,
    SERIES,
    SHADES,
    Line,
    curves,
    envelope,
    iterations,
    svg,
)
from xtra_toolkit.visualization.report.scaling import Point

CURVES = (  # key, title, smoothed, logarithmic where that shows more
    ("loss", "training loss", True, True),
    ("val/loss", "validation loss", False, True),
    ("probe/linear_top1", "linear probe, top-1 (%)", False, False),
    ("probe/knn_top1", "kNN probe, top-1 (%)", False, False),
    ("accuracy/top1", "top-1 accuracy (%)", False, False),
    ("probe/train_top1", "linear probe on its training batches, top-1 (%)", True, False),
    ("probe/loss", "loss of the linear probe", True, True),
    ("lr", "learning rate", False, False),
    ("grad_norm", "gradient norm, before clipping", True, True),
)
SPEED = ("images_per_second", "time", "data_time", "memory", "eta")
COUNTS = ("base_lr", "epoch", "iter", "probe/classes")
SPLITS = {
    "loss_step": "loss by step of the sequence",
    "loss_row": "loss by row of the grid",
    "loss_band": "loss by spatial frequency, from low (0) to high",
}
SPLIT = re.compile(rf"({'|'.join(SPLITS)})/(\d+(?:-\d+)?)")
DETAIL = re.compile("_lr|/.*/")  # each rate of a sweep, each class's IoU


@dataclass(frozen=True)
class Chart:
    """A drawing, of one run or of all."""

    drawing: str
    run: int | None = None


def axis(columns: list[RunColumn]) -> tuple[str, Callable[[RunColumn, np.ndarray], np.ndarray]]:
    """Iterations, or images seen where the runs' steps are not of equally many."""
    if len({column.batch for column in columns}) == 1:
        return "iteration", lambda _, steps: steps
    if any(column.batch is None for column in columns):
        return "iteration (runs differ in images a step)", lambda _, steps: steps
    return "images seen", lambda column, steps: steps * column.batch


def lines_of(columns: list[RunColumn], series: Callable[[RunColumn], tuple]) -> list[Line]:
    """A curve for each run that has one."""
    _, along = axis(columns)
    found = []
    for number, column in enumerate(columns):
        steps, values = series(column)
        if np.isfinite(values).any():
            found.append(Line(number, along(column, steps), values))
    return found


def training(columns: list[RunColumn]) -> Iterator[Chart]:
    """Losses, accuracies, rates, and whatever else was logged."""
    known = {key for key, *_ in CURVES} | {*SPEED, *COUNTS}
    logged = dict.fromkeys(key for column in columns for key in column.history.keys)
    others = [
        (key, key, True, False)
        for key in logged
        if key not in known and not SPLIT.fullmatch(key) and not DETAIL.search(key)
    ]
    for key, title, smooth, log in (*CURVES, *others):
        if lines := lines_of(columns, lambda c, key=key: c.history.series(key)):
            yield Chart(curves(lines, axis(columns)[0], title, smooth, log))


def throughput(columns: list[RunColumn]) -> Iterator[Chart]:
    """Images a second, the share of it that waits for data, GPU memory."""
    drawn = (
        ("images a second", lambda c: c.rates()),
        ("share of a step that waits for images (%)", waiting),
        ("peak GPU memory (GiB)", lambda c: _scaled(c.history.series("memory"), 1 / 1024)),
    )
    for title, series in drawn:
        if lines := lines_of(columns, series):
            yield Chart(curves(lines, axis(columns)[0], title, smooth=True))


def waiting(column: RunColumn) -> tuple[np.ndarray, np.ndarray]:
    """Of a step's seconds, how many per cent the loader took."""
    steps, data = column.history.series("data_time")
    same, whole = column.history.series("time")
    if len(steps) != len(same):
        return steps[:0], data[:0]
    return steps, 100 * data / np.where(whole > 0, whole, np.nan)


def _scaled(series: tuple[np.ndarray, np.ndarray], by: float) -> tuple[np.ndarray, np.ndarray]:
    return series[0], series[1] * by


def splits(columns: list[RunColumn]) -> Iterator[Chart]:
    """The loss by step of the sequence, by row and by band over time, a drawing for each run."""
    for kind, title in SPLITS.items():
        for number, column in enumerate(columns):
            names = {
                n[2]: n[0]
                for key in column.history.keys
                if (n := SPLIT.fullmatch(key)) and n[1] == kind
            }
            parts = {name: column.history.series(names[name]) for name in sorted(names, key=first)}
            if any(np.isfinite(values).any() for _, values in parts.values()):
                yield Chart(ordered(parts, title), number)


def first(part: str) -> int:
    """Of a part's name, '4' or '4-7'."""
    return int(part.split("-")[0])


def ordered(parts: dict[str, tuple], title: str) -> str:
    """A line for each part of a loss, its shade by its place among them."""

    def paint(axes: Axes) -> None:
        for (name, (steps, values)), place in zip(
            parts.items(), np.linspace(0, SHADES - 1, len(parts)), strict=True
        ):
            marker = dict(marker="o", ms=3) if len(steps) <= FEW else {}
            colour = RAMP[round(place)]
            axes.plot(*envelope(steps, values), lw=1.2, color=colour, label=name, **marker)
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=6.5, handlelength=1)
        iterations(axes)

    return svg(paint, "iteration", title, 2.9)


def scatter(of: list[Point]) -> str:
    """A measure's points, those of a run joined; the mark is the run's, the colour its objective's.

    An objective has the colour of its first run.
    """
    colours = colours_of(of)
    runs = list(dict.fromkeys(point.run for point in of))
    kinds = list(dict.fromkeys(point.loss_of.split(",")[0] for point in of))

    def paint(axes: Axes) -> None:
        for run in runs:
            own = [point for point in of if point.run == run]
            colour = SERIES[colours[own[0].objective] % COLOURS]
            xy = [p.loss for p in own], [p.accuracy for p in own]
            axes.plot(*xy, color=colour, lw=0.8, alpha=0.5, gid=f"run-{run}")
            style = dict(ls="", marker=MARKERS[run % len(MARKERS)], ms=5)
            axes.plot(*xy, color=colour, gid=f"run-{run}", **style)
            end = own[-1]
            axes.plot(
                [end.loss],
                [end.accuracy],
                mfc="none",
                mec=INK,
                gid=f"run-{run}",
                **style | dict(ms=8),
            )

    return svg(paint, f"pretraining loss ({', '.join(kinds)})", f"{of[0].measure}, top-1 (%)", 2.9)


def colours_of(of: list[Point]) -> dict[str, int]:
    """The first run of each objective."""
    return {point.objective: point.run for point in sorted(of, key=lambda p: -p.run)}


def glyph(run: int) -> str:
    """The mark of a run in a text."""
    return "●■▲◆▼◀▶⬟"[run % len(MARKERS)]
