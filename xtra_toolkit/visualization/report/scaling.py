"""Compare the pretraining loss with the accuracy: does the loss predict the accuracy?

A point is a checkpoint or a validation of a pretraining run for which both are known. The accuracy
is from the run's own probes, or from a benchmark run that started from its checkpoint. Losses are
compared only within one objective: one mask and target, one loss, one grid and one data set.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from xtra_toolkit.visualization.report import facts
from xtra_toolkit.visualization.report.facts import RunColumn, objective
from xtra_toolkit.visualization.report.runs import Run

FEWEST = 3  # least number of points for a rank correlation
LINES = 5  # logged training losses that are averaged
CHECKPOINT = re.compile(r"(epoch|iter)_(\d+)\.\w+$")
VALIDATION = "validation loss"
TRAINING = f"training loss, the mean of the last {LINES} logged values"
Losses = dict[str, float]  # by kind, VALIDATION or TRAINING


@dataclass(frozen=True)
class Point:
    """Accuracy and loss at one step of a run.

    Args:
        measure: Kind of the accuracy.
        objective: Description of the objective.
        run: Number of the run.
        step: Iteration.
        accuracy: Top-1 accuracy in per cent.
        loss: Pretraining loss.
        loss_of: Kind of the loss, ``VALIDATION`` or ``TRAINING``.
    """

    measure: str
    objective: str
    run: int
    step: int
    accuracy: float
    loss: float = np.nan
    loss_of: str = ""


def points(columns: list[RunColumn], benchmarks: Iterable[Run]) -> list[Point]:
    """Return the points of all measures, sorted by measure, objective, run and step.

    For each measure and objective the validation loss is used if all points have one, otherwise
    the training loss for all of them.
    """
    groups = defaultdict(list)
    for point in measured(columns, benchmarks):
        column = columns[point.run]
        if column.run.pretrains and np.isfinite(point.accuracy):
            known = losses(column, point.step)
            groups[point.measure, point.objective].append((point, known))
    chosen = []
    for group in groups.values():
        kind = VALIDATION if all(VALIDATION in losses for _, losses in group) else TRAINING
        chosen += [
            replace(point, loss=losses[kind], loss_of=kind)
            for point, losses in group
            if kind in losses
        ]
    return sorted(chosen, key=lambda p: (p.measure, p.objective, p.run, p.step))


def measured(columns: list[RunColumn], benchmarks: Iterable[Run]) -> Iterator[Point]:
    """Yield a point without its loss for each accuracy of a run, or of its checkpoints."""
    for number, column in enumerate(columns):
        kind = comparable(column.run.config)
        for measure, step, accuracy in column.accuracies():
            yield Point(measure, kind, number, step, accuracy)
    for run in benchmarks:
        tested = run.accuracy is not None and not run.trained  # mim test has no length
        if (run.finished or tested) and (start := origin(run, columns)):
            head = (run.config.get("model") or {}).get("head") or {}
            label = facts.measure(run.data, run.protocol, head.get("num_classes"))
            kind = comparable(columns[start[0]].run.config)
            yield Point(label, kind, *start, run.accuracy)


def last(points: Iterable[Point]) -> dict[str, dict[int, float]]:
    """Return the last accuracy of each measure by the number of the run."""
    found: dict[str, dict[int, float]] = {}
    for point in sorted(points, key=lambda point: point.step):
        found.setdefault(point.measure, {})[point.run] = point.accuracy
    return dict(sorted(found.items()))


def losses(column: RunColumn, step: int) -> Losses:
    """Return the finite losses of a run at a step, by kind."""
    found = {}
    held_out = column.history.validation.get(step, {}).get("val/loss", np.nan)
    if np.isfinite(held_out):
        found[VALIDATION] = held_out
    steps, values = column.history.series("loss")
    if len(near := values[steps <= step][-LINES:]) and np.isfinite(near).all():
        found[TRAINING] = float(near.mean())
    return found


def origin(run: Run, columns: list[RunColumn]) -> tuple[int, int] | None:
    """Find the pretraining run and the step of the checkpoint from which a run started."""
    found = CHECKPOINT.search(run.weights or "")
    if not found:
        return None
    folder, count = Path(run.weights).parent, int(found[2])
    for number, column in reversed(list(enumerate(columns))):  # the newest run of a folder wrote it
        if column.run.pretrains and _writes_to(column.run, folder):
            return number, column.history.at_epoch(count) if found[1] == "epoch" else count
    return None


def _writes_to(run: Run, folder: Path) -> bool:
    """Return whether a folder is the working folder of a run, by its config or where it is now."""
    for own in (run.folder.parent, Path(run.config.get("work_dir") or run.folder.parent)):
        same = folder.resolve() == own.resolve()
        if same or (not folder.is_absolute() and own.parts[-len(folder.parts) :] == folder.parts):
            return bool(folder.parts)
    return False


def comparable(config: dict) -> str:
    """Describe everything that must be equal if two losses are to be compared."""
    model = config.get("model") or {}
    backbone, head = model.get("backbone") or {}, model.get("head") or {}
    data = (config.get("train_dataloader") or {}).get("dataset") or {}
    images = data.get("data_root") or data.get("dataset") or data.get("type") or "unknown images"
    size = f"{backbone.get('img_size', '?')} px, patch {backbone.get('patch_size', '?')}"
    return f"{objective(model)}, {head.get('loss', 'mse')}, {size}, {images}"


def correlations(points: list[Point], names: list[str]) -> list[tuple[str, str, bool]]:
    """Return the rows of the table of rank correlations of one measure.

    There is a row for each objective, and below it, if it has several runs, one for each run and
    one for the last points of the runs.

    Args:
        points: The points of the measure.
        names: Names of the runs.

    Returns:
        (name, correlation in words, whether the row belongs to the objective above it).
    """
    rows, objectives = [], list(dict.fromkeys(p.objective for p in points))
    for kind in objectives:
        group = [p for p in points if p.objective == kind]
        runs = [[p for p in group if p.run == run] for run in dict.fromkeys(p.run for p in group)]
        rows.append((kind, f"{correlation(group)}; {group[0].loss_of}", False))
        if len(runs) > 1:
            rows += [(names[run[0].run], correlation(run), True) for run in runs]
            last = [run[-1] for run in runs]
            rows.append(("the last points of these runs", correlation(last), True))
    if len(objectives) > 1:
        rows.append(
            ("all objectives", "none is given: their losses measure different things", False)
        )
    return rows


def correlation(points: list[Point]) -> str:
    """Format Spearman's rank correlation of loss and accuracy, or say why it is not defined."""
    count = f"n = {len(points)}"
    if len(points) < FEWEST:
        return f"none, {count}: too few points"
    losses, accuracies = [p.loss for p in points], [p.accuracy for p in points]
    if len(set(losses)) == 1 or len(set(accuracies)) == 1:
        return f"none, {count}: all losses or all accuracies are equal"
    value = spearmanr(losses, accuracies).statistic
    return f"{value:+.3f}, {count}".replace("-", "\N{MINUS SIGN}")
