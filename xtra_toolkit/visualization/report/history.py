"""Read what a run logged in all its starts, by iteration.

MMEngine writes a line every few steps, {loss, lr, ..., iter, step}, and one for each validation,
whose step is the epoch. Hooks write lines of their own, whose step is the iteration.
"""

from dataclasses import dataclass, field
from pathlib import Path
from re import fullmatch

import numpy as np

from xtra_toolkit.visualization.report.logfile import LogFile, read_log
from xtra_toolkit.visualization.report.runs import Run, lines

Records = dict[int, dict[str, float]]
VALIDATED = ("val/", "accuracy/", "probe/linear", "probe/knn", "probe/rankme", "seg/")


@dataclass
class History:
    """Hold the log of a run.

    Args:
        training: Logged values of training steps by iteration.
        validation: Logged values of validations by iteration.
        pictures: Files of pictures by name and iteration.
        logs: The text log of each start.
    """

    training: Records = field(default_factory=dict)
    validation: Records = field(default_factory=dict)
    pictures: dict[str, dict[int, Path]] = field(default_factory=dict)
    logs: list[LogFile] = field(default_factory=list)

    def series(self, key: str) -> tuple[np.ndarray, np.ndarray]:
        """Return iterations and values of a key, those of validations if they report it."""
        records = self.validation if any(key in v for v in self.validation.values()) else None
        records = self.training if records is None else records
        found = [(step, records[step][key]) for step in sorted(records) if key in records[step]]
        steps, values = zip(*found, strict=True) if found else ((), ())
        return np.array(steps, dtype=float), np.array(values, dtype=float)

    def last(self, key: str) -> float | None:
        """Return the newest value of a key; None if it was not logged."""
        _, values = self.series(key)
        return float(values[-1]) if len(values) else None

    @property
    def keys(self) -> list[str]:
        """Return all logged keys, in the order of their first appearance."""
        records = [*self.training.values(), *self.validation.values()]
        return list(dict.fromkeys(key for record in records for key in record))

    @property
    def step(self) -> int:
        """Return the last iteration with a logged value."""
        return max((*self.training, *self.validation), default=0)

    @property
    def epoch_steps(self) -> int | None:
        """Return the steps of an epoch by the last start that logged them; None if none did."""
        return next((log.epoch_steps for log in reversed(self.logs) if log.epoch_steps), None)

    def at_epoch(self, epoch: float) -> int:
        """Return the iteration at which an epoch ended."""
        if self.epoch_steps:
            return round(epoch * self.epoch_steps)
        return max((s for s, r in self.training.items() if r.get("epoch", 0) <= epoch), default=0)

    def forget(self, step: int) -> None:
        """Drop everything from an iteration on, because the next start repeats it."""
        for part in (self.training, self.validation, *self.pictures.values()):
            for late in [s for s in part if s >= step]:
                del part[late]


def read_history(run: Run) -> History:
    """Read and join the logs of all starts of a run."""
    history = History()
    for start in run.starts:
        history.logs.append(read_log(start))
        records = list(lines(start / "vis_data" / "scalars.json"))
        steps = [int(record["step"]) for record in records if "iter" in record]
        history.forget(min(steps, default=np.inf))
        trained = [record for record in records if not _validates(record)]
        for record in trained:
            if "step" in record:
                _add(history.training, int(record["step"]), record)
        for record in records:
            if _validates(record) and "step" in record:
                values = {k: v for k, v in record.items() if k not in ("time", "data_time")}
                _add(history.validation, _iteration(history, run, record["step"]), values)
        for path in sorted(start.glob("vis_data/vis_image/*")):
            if found := fullmatch(r"(.+)_(\d{1,15})\.(?:jpg|png)", path.name):
                history.pictures.setdefault(found[1], {})[int(found[2])] = path
    return history


def _validates(record: dict) -> bool:
    """Return whether a record is of a validation: it has a time or metrics, but no iteration."""
    return "iter" not in record and any(k == "time" or k.startswith(VALIDATED) for k in record)


def _iteration(history: History, run: Run, step: int) -> int:
    """Return the iteration of a validation, whose step is an epoch or an iteration."""
    logger = (run.config.get("default_hooks") or {}).get("logger") or {}
    counts_epochs = logger.get("log_metric_by_epoch", True)
    return history.at_epoch(step) if counts_epochs else int(step)


def _add(records: Records, step: int, record: dict) -> None:
    values = {k: v for k, v in record.items() if isinstance(v, int | float) and k != "step"}
    records.setdefault(step, {}).update(values)
