"""Draw the plots of a page from what its runs logged."""

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

CURVES = (  # key, title, whether to smooth, whether to use a logarithmic axis if it helps
    ("loss", "training loss", True, True),
    ("val/loss", "validation loss", False, True),
    ("probe/linear_top1", "linear probe, top-1 (%)", False, False),
    ("probe/knn_top1", "kNN probe, top-1 (%)", False, False),
    ("probe/rankme", "RankMe, the effective rank of the features", False, False),
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
CLOSE = dict(handlelength=1, labelspacing=0.2)  # of a long legend
DETAIL = re.compile("_lr|/.*/")  # values of each learning rate of a sweep or of each class


@dataclass(frozen=True)
class Chart:
    """Hold an SVG drawing of the run with the number ``run``, or of all runs if it is None."""

    drawing: str
    run: int | None = None


def axis(columns: list[RunColumn]) -> tuple[str, Callable[[RunColumn, np.ndarray], np.ndarray]]:
    """Return the label of the x axis and a function that converts iterations to it.

    The axis counts images seen if the runs differ in the number of images a step.
    """
    if len({column.batch for column in columns}) == 1:
        return "iteration", lambda _, steps: steps
    if any(column.batch is None for column in columns):
        return "iteration (runs differ in images a step)", lambda _, steps: steps
    return "images seen", lambda column, steps: steps * column.batch


def lines_of(columns: list[RunColumn], series: Callable[[RunColumn], tuple]) -> list[Line]:
    """Make a line for each run that has finite values of a series."""
    _, to_x = axis(columns)
    lines = []
    for number, column in enumerate(columns):
        steps, values = series(column)
        if np.isfinite(values).any():
            lines.append(Line(number, to_x(column, steps), values))
    return lines


def training(columns: list[RunColumn]) -> Iterator[Chart]:
    """Draw losses, accuracies, learning rates, and all other logged values."""
    known = {key for key, *_ in CURVES} | {*SPEED, *COUNTS}
    logged = dict.fromkeys(key for column in columns for key in column.history.keys)
    others = [
        (key, key, True, False)
        for key in logged
        if key not in known and not SPLIT.fullmatch(key) and not DETAIL.search(key)
    ]
    for key, title, smooth, log in (*CURVES, *others):
        if lines := lines_of(columns, lambda c, key=key: c.history.series(key)):
            if key in ("loss", "val/loss"):
                title += comparable([columns[line.run].objective for line in lines])
            yield Chart(curves(lines, axis(columns)[0], title, smooth, log))


def comparable(objectives: list[str]) -> str:
    """Return what a plot's title adds where losses of different objectives stand in it."""
    return "; objectives differ: do not compare" if len(set(objectives)) > 1 else ""


def throughput(columns: list[RunColumn]) -> Iterator[Chart]:
    """Draw images a second, the share of time spent waiting for data, and GPU memory."""
    plots = (
        ("images a second", lambda c: c.rates()),
        ("share of a step that waits for images (%)", waiting),
        ("peak GPU memory (GiB)", lambda c: _scaled(c.history.series("memory"), 1 / 1024)),
    )
    for title, series in plots:
        if lines := lines_of(columns, series):
            yield Chart(curves(lines, axis(columns)[0], title, smooth=True))


def waiting(column: RunColumn) -> tuple[np.ndarray, np.ndarray]:
    """Return iterations, and the time that the data loader took, in per cent of the step."""
    steps, data_time = column.history.series("data_time")
    time_steps, time = column.history.series("time")
    if len(steps) != len(time_steps):
        return steps[:0], data_time[:0]
    return steps, 100 * data_time / np.where(time > 0, time, np.nan)


def _scaled(series: tuple[np.ndarray, np.ndarray], factor: float) -> tuple[np.ndarray, np.ndarray]:
    return series[0], series[1] * factor


def splits(columns: list[RunColumn]) -> Iterator[Chart]:
    """Draw the loss by step of the sequence, by row and by frequency band, for each run."""
    for kind, title in SPLITS.items():
        for number, column in enumerate(columns):
            matches = filter(None, map(SPLIT.fullmatch, column.history.keys))
            keys = {match[2]: match[0] for match in matches if match[1] == kind}
            parts = {name: column.history.series(keys[name]) for name in sorted(keys, key=first)}
            if any(np.isfinite(values).any() for _, values in parts.values()):
                yield Chart(ordered(parts, title), number)


def first(part: str) -> int:
    """Return the first number in the name of a part, '4' or '4-7'."""
    return int(part.split("-")[0])


def ordered(parts: dict[str, tuple], title: str) -> str:
    """Draw a line for each part of a loss, in shades from the first part to the last."""

    def paint(axes: Axes) -> None:
        shades = np.linspace(0, SHADES - 1, len(parts))
        for (name, (steps, values)), shade in zip(parts.items(), shades, strict=True):
            marker = dict(marker="o", ms=3) if len(steps) <= FEW else {}
            colour = RAMP[round(shade)]
            axes.plot(*envelope(steps, values), lw=1.2, color=colour, label=name, **marker)
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8, **CLOSE)
        iterations(axes)

    return svg(paint, "iteration", title, 3.1)


def scatter(points: list[Point]) -> str:
    """Draw the points of one measure of accuracy against the pretraining loss.

    Points of a run are connected and have its colour. Runs of one objective share a marker.
    """
    markers = dict(zip(objectives_of(points), MARKERS * len(points), strict=False))
    runs = list(dict.fromkeys(point.run for point in points))
    kinds = list(dict.fromkeys(point.loss_of.split(",")[0] for point in points))

    def paint(axes: Axes) -> None:
        for run in runs:
            of_run = [point for point in points if point.run == run]
            look = dict(color=SERIES[run % COLOURS], gid=f"run-{run}")
            xy = [p.loss for p in of_run], [p.accuracy for p in of_run]
            axes.plot(*xy, lw=0.8, alpha=0.5, **look)
            style = dict(ls="", marker=markers[of_run[0].objective], ms=5)
            axes.plot(*xy, **look, **style)
            ring = style | dict(ms=8, mfc="none", mec=INK)
            axes.plot([of_run[-1].loss], [of_run[-1].accuracy], gid=f"run-{run}", **ring)

    xlabel = f"pretraining loss ({', '.join(kinds)})"
    return svg(paint, xlabel, f"{points[0].measure}, top-1 (%)", 2.9)


def objectives_of(points: list[Point]) -> list[str]:
    """Return the objectives of points in the order of their first run."""
    return list(dict.fromkeys(p.objective for p in sorted(points, key=lambda p: p.run)))


def glyph(number: int) -> str:
    """Return the marker of the objective of a number as a character of text."""
    return "●■▲◆▼◀▶⬟"[number % len(MARKERS)]
