"""Runs side by side: a name for each, and what is said of it in a few words."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import median

import numpy as np

from xtra_toolkit.visualization.objectives.title import pair
from xtra_toolkit.visualization.report.history import History, read_history
from xtra_toolkit.visualization.report.runs import Run

NONE = "not logged"
RECENT = 20  # logged lines that a rate of now is the median of
ACCURACIES = {
    "probe/linear_top1": "linear probe",
    "probe/knn_top1": "kNN probe",
    "accuracy/top1": "top-1",
}


@dataclass
class RunColumn:
    """A run, what it logged, and a name that no other run of the page has."""

    run: Run
    history: History
    name: str

    @property
    def objective(self) -> str:
        """The pair, or what else the run trains."""
        if self.run.pretrains:
            return objective(self.run.config["model"])
        return f"{self.run.benchmark or 'unnamed data set'}, {self.run.protocol}"

    @property
    def batch(self) -> int | None:
        """Images of a step, over all processes."""
        train = self.run.config.get("train_cfg") or {}
        if "global_batch" in train:
            return train["global_batch"]
        each = (self.run.config.get("train_dataloader") or {}).get("batch_size")
        processes = self.versions.get("GPU number", "1").split(" → ")[-1]
        return each and each * int(processes if processes.isdecimal() else 1)

    @property
    def length(self) -> int | None:
        """Steps of the whole run."""
        steps = next((log.steps for log in self.history.logs if log.steps), None)
        train = self.run.config.get("train_cfg") or {}
        each, epochs = self.history.epoch_steps, train.get("max_epochs")
        return each * epochs if each and epochs else train.get("max_iters") or steps

    @property
    def versions(self) -> dict[str, str]:
        """The environment; an entry that changed between starts has an arrow."""
        logs = [log.environment for log in self.history.logs]
        keys = dict.fromkeys(key for log in logs for key in log)
        return {
            key: " → ".join(dict.fromkeys(log[key] for log in logs if key in log)) for key in keys
        }

    def rates(self) -> tuple[np.ndarray, np.ndarray]:
        """Iterations, and the images trained on in a second there."""
        steps, values = self.history.series("images_per_second")
        if not len(steps):
            steps, seconds = self.history.series("time")
            values = self.batch / np.where(seconds > 0, seconds, np.nan) if self.batch else seconds
            steps = steps if self.batch else steps[:0]
        return steps, values[: len(steps)]


def objective(model: dict) -> str:
    """The pair; a pretrainer of MMPretrain's own, which has none, by its type."""
    return pair(model) if "mask" in model else str(model.get("type"))


def columns(runs: Iterable[Run]) -> list[RunColumn]:
    """Of runs, each by the last parts of its folder that no other shares."""
    runs = list(runs)
    return [
        RunColumn(run, read_history(run), name)
        for run, name in zip(runs, names([run.folder for run in runs]), strict=True)
    ]


def names(starts: list[Path]) -> list[str]:
    """The working folder's name; more of its path, or the time, where two agree."""
    shared = [s.parent for s in starts]
    for depth in range(1, max((len(p.parts) for p in shared), default=1) + 1):
        given = ["/".join(p.parts[-depth:]) for p in shared]
        if len(set(given)) == len(set(shared)):
            break
    return [
        f"{name}, {start.name}" if shared.count(start.parent) > 1 else name
        for name, start in zip(given, starts, strict=True)
    ]


def table(shown: list[RunColumn]) -> list[tuple[str, list[str]]]:
    """(fact, its words for each run)."""
    facts = {
        "objective": lambda c: c.objective,
        "started": started,
        "logged up to step": steps,
        "state": state,
        "training loss": lambda c: value(c, "loss"),
        "validation loss": lambda c: value(c, "val/loss"),
        "accuracy": accuracy,
        "images a step": lambda c: str(c.batch or NONE),
        "images a second": rate,
        "peak GPU memory": memory,
    }
    if any(column.run.notes for column in shown):
        facts["left out"] = lambda c: "; ".join(c.run.notes) or "nothing"
    return [(name, [words(column) for column in shown]) for name, words in facts.items()]


def started(column: RunColumn) -> str:
    """When, and how often it was resumed."""
    try:
        text = f"{datetime.strptime(column.run.folder.name, '%Y%m%d_%H%M%S')}"
    except ValueError:  # a folder that was renamed
        text = column.run.folder.name
    again = len(column.run.starts) - 1
    return text + f", resumed {again} time{'s' * (again > 1)}" * bool(again)


def steps(column: RunColumn) -> str:
    """How far, of how far."""
    done = f"{column.history.step:,}"
    return f"{done} of {column.length:,}" if column.length else done


def state(column: RunColumn) -> str:
    """In words."""
    history = column.history
    if not history.step:
        return "no step in its log"
    seen, losses = history.series("loss")
    if len(losses) and not math.isfinite(losses[-1]):
        finite = seen[np.isfinite(losses)]
        last = f"after step {finite[-1]:,.0f}" if len(finite) else "from the start"
        return f"loss not finite {last}"
    every = ((column.run.config.get("default_hooks") or {}).get("logger") or {}).get("interval", 10)
    if not column.length:
        return "its length is not known"
    if history.step >= column.length:
        return "finished"
    near = history.step > column.length - every
    return "at its end, whose last steps are not logged" if near else "not finished"


def value(column: RunColumn, key: str) -> str:
    """The last of a key."""
    last = column.history.last(key)
    return NONE if last is None else f"{last:.4g}"


def accuracy(column: RunColumn) -> str:
    """The last of each kind, in per cent."""
    found = {label: column.history.last(key) for key, label in ACCURACIES.items()}
    return ", ".join(f"{k} {v:.2f} %" for k, v in found.items() if v is not None) or NONE


def rate(column: RunColumn) -> str:
    """The median of the last lines."""
    rates = column.rates()[1]
    rates = rates[np.isfinite(rates)][-RECENT:]
    return f"{median(rates):,.3g}" if len(rates) else NONE


def memory(column: RunColumn) -> str:
    """The greatest that was logged, which is on CUDA alone."""
    _, values = column.history.series("memory")
    return f"{np.nanmax(values) / 1024:.1f} GiB" if len(values) else f"{NONE}, which needs CUDA"
