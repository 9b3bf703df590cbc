"""The results of a comparison: one JSON file, from which table, sentences and plot are made.

An interval runs from the lowest to the highest seed, widened on both sides by the 95 % half-width
of an accuracy on that many test images. Where two intervals overlap, the difference is called
noise.
"""

import json
import os
import platform
import subprocess
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import NamedTuple

PROBES = dict(linear="linear", nearest="kNN", attentive="attentive")
RAW, RANDOM, SCRATCH = "raw pixels", "random encoder", "from scratch"
NOTE = (
    "An interval runs from the lowest to the highest seed, widened by the 95 % half-width of an "
    "accuracy on {tested:,} test images; where two intervals overlap, the difference is called "
    "noise."
)


class Interval(NamedTuple):
    """Accuracies of several seeds, in per cent."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.1f} ({self.low:.1f} to {self.high:.1f})"

    def against(self, other: "Interval") -> str:
        """Say how it stands to another: 'above', 'below' or 'within noise of'."""
        if self.low <= other.high and other.low <= self.high:
            return "within noise of"
        return "above" if self.mean > other.mean else "below"


def interval(accuracies: list[float], tested: int) -> Interval:
    """Return the interval of accuracies in per cent, each on ``tested`` images."""
    mean = sum(accuracies) / len(accuracies)
    half = 196 * (mean / 100 * (1 - mean / 100) / tested) ** 0.5
    return Interval(mean, min(accuracies) - half, max(accuracies) + half)


class Results:
    """What is known so far, kept in a file after each measurement.

    Args:
        path: The JSON file; read where it exists.
        **about: What holds for the whole comparison, among it ``plan`` and ``tested``.
    """

    def __init__(self, path: Path, **about: object):
        self.path = path
        self.state = json.loads(path.read_text()) if path.exists() else dict(about, runs=[])

    def record(self, name: str, seed: int, **values: object) -> None:
        """Add values to the record of a run, and write the file."""
        self.of(name, seed).update(values)
        self.state["date"] = str(date.today())
        part = self.path.with_name(f"{self.path.name}.part")
        part.write_text(json.dumps(self.state, indent=1) + "\n")
        part.replace(self.path)

    def of(self, name: str, seed: int) -> dict:
        """Return the record of a run, made where there is none."""
        for run in self.state["runs"]:
            if (run["name"], run["seed"]) == (name, seed):
                return run
        self.state["runs"].append(dict(name=name, seed=seed))
        return self.state["runs"][-1]

    @property
    def tested(self) -> int:
        """Test images of each accuracy."""
        return self.state["tested"]

    def names(self) -> list[str]:
        """Return the names of the rows: references first, then objectives as they were given."""
        found = dict.fromkeys(run["name"] for run in self.state["runs"])
        objectives = [name for name in self.state["plan"]["images"] if name in found]
        return [name for name in found if name not in objectives] + objectives

    def probe(self, name: str, probe: str) -> Interval | None:
        """Return the accuracy of a probe over the seeds of a row."""
        return self._interval(run.get(probe) for run in self._runs(name))

    def tuned(self, name: str, labels: int) -> Interval | None:
        """Return the accuracy of fine-tuning with so many labels over the seeds of a row."""
        return self._interval(run.get("tuned", {}).get(str(labels)) for run in self._runs(name))

    def tune_labels(self) -> list[int]:
        """Return the numbers of labels that fine-tuning was planned with."""
        return self.state["plan"]["tune_labels"]

    def _runs(self, name: str) -> list[dict]:
        return [run for run in self.state["runs"] if run["name"] == name]

    def _interval(self, accuracies: Iterable[float | None]) -> Interval | None:
        known = [value for value in accuracies if value is not None]
        return interval(known, self.tested) if known else None

    def table(self) -> str:
        """Return the table in Markdown."""
        head = ["features", "seeds", "images", "minutes", *PROBES.values()]
        head += [f"tuned, {labels:,} labels" for labels in self.tune_labels()]
        lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
        for name in self.names():
            runs = self._runs(name)
            minutes = [run["minutes"] for run in runs if run.get("minutes")]
            images = self.state["plan"]["images"].get(name)
            cells = [name, str(len(runs)), f"{images:,}" if images else ""]
            cells += [f"{sum(minutes) / len(minutes):.0f}" if minutes else ""]
            found = [self.probe(name, probe) for probe in PROBES]
            found += [self.tuned(name, labels) for labels in self.tune_labels()]
            lines.append("| " + " | ".join([*cells, *(str(f) if f else "" for f in found)]) + " |")
        return "\n".join(lines)

    def sentences(self) -> list[str]:
        """Say of each objective how it stands to the references."""
        return [line for name in self.state["plan"]["images"] for line in self._sentences(name)]

    def _sentences(self, name: str) -> list[str]:
        said = []
        own = self.probe(name, "linear")
        others = [(other, self.probe(other, "linear")) for other in (RAW, RANDOM)]
        stands = [f"{own.against(value)} {other}" for other, value in others if own and value]
        if stands:
            said.append(f"{name}, linear probe: {own}; {', '.join(stands)}.")
        for labels in self.tune_labels():
            own = self.tuned(name, labels)
            others = [(o, self.tuned(o, labels)) for o in self.names() if o.startswith(SCRATCH)]
            stands = [f"{own.against(value)} {other}" for other, value in others if own and value]
            if stands:
                said.append(
                    f"{name}, fine-tuned with {labels:,} labels: {own}; {', '.join(stands)}."
                )
        return said


def about_machine() -> dict[str, str]:
    """Return what a figure depends on beside the code: machine, threads, torch and commit."""
    import torch

    device = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text().splitlines() if "model name" in line]
        device = names[0].partition(":")[2].strip() if names else device
    if torch.cuda.is_available():
        device = torch.cuda.get_device_name()
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    threads = f"{os.cpu_count()} cores, {torch.get_num_threads()} threads a process"
    return dict(machine=f"{device}, {threads}", torch=torch.__version__, commit=commit)
