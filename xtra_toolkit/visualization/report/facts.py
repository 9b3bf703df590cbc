"""Facts about runs side by side: a name of each run, and a short text for each fact."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import median

import numpy as np

from xtra_toolkit.visualization.objectives.title import pair
from xtra_toolkit.visualization.report.history import History, read_history
from xtra_toolkit.visualization.report.runs import Run

NONE = "not logged"
RECENT = 20  # logged lines whose median is the current rate
ACCURACIES = {
    "probe/linear_top1": "linear probe",
    "probe/knn_top1": "kNN probe",
    "accuracy/top1": "top-1",
}
RANK = "probe/rankme"


@dataclass
class RunColumn:
    """A column of the page: a run, what it logged, and its unique name."""

    run: Run
    history: History
    name: str

    @property
    def objective(self) -> str:
        """Return mask and target of a pretraining run; data set and protocol of another run."""
        if self.run.pretrains:
            return objective(self.run.config["model"])
        return f"{self.run.data}, {self.run.protocol}"

    @property
    def batch(self) -> int | None:
        """Return the number of images a step, over all processes; None if it is not known."""
        train = self.run.config.get("train_cfg") or {}
        if "global_batch" in train:
            return train["global_batch"]
        each = (self.run.config.get("train_dataloader") or {}).get("batch_size")
        processes = self.versions.get("GPU number", "1").split(" → ")[-1]
        return each and each * int(processes if processes.isdecimal() else 1)

    @property
    def length(self) -> int | None:
        """Return the number of steps of the whole run; None if it is not known."""
        steps = next((log.steps for log in self.history.logs if log.steps), None)
        train = self.run.config.get("train_cfg") or {}
        each, epochs = self.history.epoch_steps, train.get("max_epochs")
        return each * epochs if each and epochs else train.get("max_iters") or steps

    @property
    def versions(self) -> dict[str, str]:
        """Return versions in the environment; an arrow marks one that changed between starts."""
        logs = [log.environment for log in self.history.logs]
        keys = dict.fromkeys(key for log in logs for key in log)
        return {
            key: " → ".join(dict.fromkeys(log[key] for log in logs if key in log)) for key in keys
        }

    def accuracies(self) -> Iterator[tuple[str, int, float]]:
        """Yield (measure, step, accuracy in per cent) of all validations.

        A measure names the data set, the kind of the accuracy and, if known, the number of classes.
        """
        for key, label in ACCURACIES.items():
            kind = label if self.run.pretrains else self.run.protocol
            for step, record in self.history.validation.items():
                if key in record:
                    classes = record.get("probe/classes")
                    yield measure(self.run.data, kind, classes), step, record[key]

    def rates(self) -> tuple[np.ndarray, np.ndarray]:
        """Return iterations, and the number of images a second at them."""
        steps, values = self.history.series("images_per_second")
        if not len(steps):
            steps, seconds = self.history.series("time")
            values = self.batch / np.where(seconds > 0, seconds, np.nan) if self.batch else seconds
            steps = steps if self.batch else steps[:0]
        return steps, values[: len(steps)]


def measure(data: str, kind: str, classes: float | None) -> str:
    """Name a kind of accuracy; the number of classes belongs to it, as accuracies depend on it."""
    return f"{data}, {kind}" + (f", {classes:.0f} classes" if classes else "")


def objective(model: dict) -> str:
    """Return the mask and target of a model; the type of a model of MMPretrain, which has none."""
    return pair(model) if "mask" in model else str(model.get("type"))


def columns(runs: Iterable[Run]) -> list[RunColumn]:
    """Read the logs of runs, and name each by the parts of its folder that make it unique."""
    runs = list(runs)
    return [
        RunColumn(run, read_history(run), name)
        for run, name in zip(runs, names([run.folder for run in runs]), strict=True)
    ]


def names(starts: list[Path]) -> list[str]:
    """Name runs by their working folders, with more of the path or the time if two are equal."""
    folders = [start.parent for start in starts]
    for depth in range(1, max((len(p.parts) for p in folders), default=1) + 1):
        short_names = ["/".join(p.parts[-depth:]) for p in folders]
        if len(set(short_names)) == len(set(folders)):
            break
    return [
        f"{name}, {start.name}" if folders.count(start.parent) > 1 else name
        for name, start in zip(short_names, starts, strict=True)
    ]


def table(
    columns: list[RunColumn], accuracies: dict[str, dict[int, float]]
) -> list[tuple[str, list[str]]]:
    """Return the rows of the table of runs, (name of a fact, its text for each run).

    Args:
        columns: The runs.
        accuracies: The last accuracy of each measure in per cent, by the number of the run.
    """
    facts = {
        "objective": lambda c: c.objective,
        "started": started,
        "logged up to step": steps,
        "state": state,
        "training loss": lambda c: value(c, "loss"),
        "validation loss": lambda c: value(c, "val/loss"),
        "RankMe": lambda c: value(c, RANK),
        "images a step": lambda c: str(c.batch or NONE),
        "images a second": rate,
        "peak GPU memory": memory,
    }
    if any(column.run.notes for column in columns):
        facts["left out"] = lambda c: "; ".join(c.run.notes) or "nothing"
    if not any(RANK in column.history.keys for column in columns):
        del facts["RankMe"]
    rows = [(name, [fact(column) for column in columns]) for name, fact in facts.items()]
    at = next(i for i, (name, _) in enumerate(rows) if name == "validation loss") + 1
    rows[at:at] = [
        (
            f"{name} (%)",
            [f"{found[i]:.2f}" if i in found else "not measured" for i in range(len(columns))],
        )
        for name, found in accuracies.items()
    ]
    return rows


def started(column: RunColumn) -> str:
    """Return when the run started and how often it was resumed."""
    try:
        text = f"{datetime.strptime(column.run.folder.name, '%Y%m%d_%H%M%S')}"
    except ValueError:  # the folder was renamed
        text = column.run.folder.name
    resumed = len(column.run.starts) - 1
    return text + f", resumed {resumed} time{'s' * (resumed > 1)}" * bool(resumed)


def steps(column: RunColumn) -> str:
    """Return the progress as '700 of 1,000'."""
    done = f"{column.history.step:,}"
    return f"{done} of {column.length:,}" if column.length else done


def state(column: RunColumn) -> str:
    """Describe whether the run has finished."""
    history = column.history
    if not history.step:
        return "no step in its log"
    loss_steps, losses = history.series("loss")
    if len(losses) and not math.isfinite(losses[-1]):
        finite = loss_steps[np.isfinite(losses)]
        last = f"after step {finite[-1]:,.0f}" if len(finite) else "from the start"
        return f"loss not finite {last}"
    logger = (column.run.config.get("default_hooks") or {}).get("logger") or {}
    if not column.length:
        return "its length is not known"
    if history.step >= column.length:
        return "finished"
    near = history.step > column.length - logger.get("interval", 10)
    return "at its end, whose last steps are not logged" if near else "not finished"


def value(column: RunColumn, key: str) -> str:
    """Format the last value of a key."""
    last = column.history.last(key)
    return NONE if last is None else f"{last:.4g}"


def rate(column: RunColumn) -> str:
    """Format the median number of images a second of the last logged lines."""
    rates = column.rates()[1]
    rates = rates[np.isfinite(rates)][-RECENT:]
    return f"{median(rates):,.3g}" if len(rates) else NONE


def memory(column: RunColumn) -> str:
    """Format the greatest GPU memory that was logged; it is logged on CUDA only."""
    _, values = column.history.series("memory")
    return f"{np.nanmax(values) / 1024:.1f} GiB" if len(values) else f"{NONE}, which needs CUDA"
