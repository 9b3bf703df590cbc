"""Pretraining loss against accuracy: does the one predict the other?

A point is a checkpoint or a validation of a pretraining run of which both are known: by the run's
own probes, or by a benchmark run of the given folders that began from its checkpoint. Losses are
compared within an objective alone: what is predicted, of what, by which loss.
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from xtra_toolkit.visualization.report.facts import ACCURACIES, RunColumn, objective
from xtra_toolkit.visualization.report.ranks import FEWEST, spearman
from xtra_toolkit.visualization.report.runs import Run

LINES = 5  # of the training log that a loss is the mean of
CHECKPOINT = re.compile(r"(epoch|iter)_(\d+)\.\w+$")
VALIDATION = "validation loss"
TRAINING = f"training loss, the mean of the last {LINES} logged values"
Losses = dict[str, float]  # by what they are


@dataclass(frozen=True)
class Point:
    """One checkpoint; ``loss_of`` says which loss it is."""

    measure: str
    objective: str
    run: int
    step: int
    accuracy: float
    loss: float = np.nan
    loss_of: str = ""


def points(columns: list[RunColumn], benchmarks: Iterable[Run]) -> list[Point]:
    """Of all measures, sorted by step; an objective has one kind of loss for each measure.

    The validation loss is taken where every point has one, else the training loss for all.
    """
    groups = defaultdict(list)
    for point, losses in _found(columns, list(benchmarks)):
        if np.isfinite(point.accuracy):
            groups[point.measure, point.objective].append((point, losses))
    chosen = []
    for group in groups.values():
        kind = VALIDATION if all(VALIDATION in losses for _, losses in group) else TRAINING
        chosen += [
            replace(point, loss=losses[kind], loss_of=kind)
            for point, losses in group
            if kind in losses
        ]
    return sorted(chosen, key=lambda p: (p.measure, p.objective, p.run, p.step))


def _found(columns: list[RunColumn], benchmarks: list[Run]) -> Iterable[tuple[Point, Losses]]:
    for number, column in enumerate(columns):
        if not column.run.pretrains:
            continue
        kind, history = comparable(column.run.config), column.history
        for key, label in ACCURACIES.items():
            for step, record in history.validation.items():
                if key in record:
                    measure = _of_classes(label, record.get("probe/classes"))
                    yield Point(measure, kind, number, step, record[key]), losses(column, step)
    for run in benchmarks:
        tested = run.accuracy is not None and not run.trained  # by mim test, which has no length
        if (run.finished or tested) and (place := origin(run, columns)):
            column, step = columns[place[0]], place[1]
            head = (run.config.get("model") or {}).get("head") or {}
            label = f"{run.benchmark or 'unnamed data set'}, {run.protocol}"
            label = _of_classes(label, head.get("num_classes"))
            kind = comparable(column.run.config)
            yield Point(label, kind, *place, run.accuracy), losses(column, step)


def _of_classes(label: str, classes: float | None) -> str:
    """Name the number of classes: accuracies among few and among many are different measures."""
    return f"{label}, {classes:.0f} classes" if classes else label


def losses(column: RunColumn, step: int) -> Losses:
    """The finite ones at a step."""
    found = {}
    held_out = column.history.validation.get(step, {}).get("val/loss", np.nan)
    if np.isfinite(held_out):
        found[VALIDATION] = held_out
    steps, values = column.history.series("loss")
    if len(near := values[steps <= step][-LINES:]) and np.isfinite(near).all():
        found[TRAINING] = float(near.mean())
    return found


def origin(run: Run, columns: list[RunColumn]) -> tuple[int, int] | None:
    """The pretraining run whose checkpoint a run began from, and that checkpoint's step."""
    found = CHECKPOINT.search(run.weights or "")
    if not found:
        return None
    folder, count = Path(run.weights).parent, int(found[2])
    for number, column in reversed(list(enumerate(columns))):  # the newest in a folder wrote it
        if column.run.pretrains and _holds(column.run, folder):
            return number, column.history.at_epoch(count) if found[1] == "epoch" else count
    return None


def _holds(run: Run, folder: Path) -> bool:
    """Is a checkpoint's folder the run's, as it was then or as it lies now?"""
    for own in (run.folder.parent, Path(run.config.get("work_dir") or run.folder.parent)):
        same = folder.resolve() == own.resolve()
        if same or (not folder.is_absolute() and own.parts[-len(folder.parts) :] == folder.parts):
            return bool(folder.parts)
    return False


def comparable(config: dict) -> str:
    """What must agree if two losses are to be compared, in words."""
    model = config.get("model") or {}
    backbone, head = model.get("backbone") or {}, model.get("head") or {}
    data = (config.get("train_dataloader") or {}).get("dataset") or {}
    images = data.get("data_root") or data.get("dataset") or data.get("type") or "unknown images"
    size = f"{backbone.get('img_size', '?')} px, patch {backbone.get('patch_size', '?')}"
    return f"{objective(model)}, {head.get('loss', 'mse')}, {size}, {images}"


def correlations(of: list[Point], names: list[str]) -> list[tuple[str, str, bool]]:
    """(of what, in words, is it a part of the objective above?) of one measure.

    Of each objective, of its runs, and of the runs' last points.
    """
    said, objectives = [], list(dict.fromkeys(p.objective for p in of))
    for kind in objectives:
        group = [p for p in of if p.objective == kind]
        runs = [[p for p in group if p.run == run] for run in dict.fromkeys(p.run for p in group)]
        said.append((kind, f"{correlation(group)}; {group[0].loss_of}", False))
        if len(runs) > 1:
            said += [(names[run[0].run], correlation(run), True) for run in runs]
            ends = [run[-1] for run in runs]
            said.append(("the last points of these runs", correlation(ends), True))
    if len(objectives) > 1:
        said.append(
            ("all objectives", "none is given: their losses measure different things", False)
        )
    return said


def correlation(of: list[Point]) -> str:
    """Spearman's, or why there is none."""
    count = f"n = {len(of)}"
    if len(of) < FEWEST:
        return f"none, {count}: too few points"
    value = spearman(np.array([p.loss for p in of]), np.array([p.accuracy for p in of]))
    if value is None:
        return f"none, {count}: all losses or all accuracies are equal"
    return f"{value:+.3f}, {count}".replace("-", "\N{MINUS SIGN}")
