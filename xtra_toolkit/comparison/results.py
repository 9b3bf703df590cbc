"""Keep the results of a comparison in one JSON file, from which tables and plots are drawn.

An interval reaches from the lowest to the highest seed, widened on both sides by the 95 %
half-width of an accuracy on that many test images. If two intervals overlap, their difference is
called noise.
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
    "An interval reaches from the lowest to the highest seed, widened by the 95 % half-width of an "
    "accuracy on {tested:,} {images}. If two intervals overlap, their difference is called "
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
        """Compare with another interval: 'above', 'below' or 'within noise of'."""
        if self.low <= other.high and other.low <= self.high:
            return "within noise of"
        return "above" if self.mean > other.mean else "below"


def interval(accuracies: list[float], tested: int) -> Interval:
    """Return the interval of accuracies in per cent, each measured on ``tested`` images."""
    mean = sum(accuracies) / len(accuracies)
    half_width = 196 * (mean / 100 * (1 - mean / 100) / tested) ** 0.5
    return Interval(mean, min(accuracies) - half_width, max(accuracies) + half_width)


def varied_row(name: str) -> str | None:
    """Return the row of which a row varies a setting, or None: 'xtra' for 'xtra, lr=0.001'."""
    row, _, variation = name.partition(", ")
    return row if variation else None


class Results:
    """Everything that was measured so far, written to a file after each measurement.

    Args:
        path: The JSON file. It is read if it exists.
        **about: Facts about the whole comparison, among them ``plan``, ``tested`` and ``commit``.
    """

    def __init__(self, path: Path, **about: object):
        self.path = path
        self.state = json.loads(path.read_text()) if path.exists() else dict(about, runs=[])

    def record(self, name: str, seed: int, **values: object) -> None:
        """Add values to the record of a run, and write the file."""
        self.of(name, seed).update(values, commit=self.state["commit"])
        self.state["date"] = str(date.today())
        unfinished = self.path.with_name(f"{self.path.name}.part")
        unfinished.write_text(json.dumps(self.state, indent=1) + "\n")
        unfinished.replace(self.path)

    def of(self, name: str, seed: int) -> dict:
        """Return the record of a run. It is created if there is none."""
        for run in self.state["runs"]:
            if (run["name"], run["seed"]) == (name, seed):
                return run
        self.state["runs"].append(dict(name=name, seed=seed))
        return self.state["runs"][-1]

    @property
    def tested(self) -> int:
        """Number of test images of each accuracy."""
        return self.state["tested"]

    @property
    def tested_images(self) -> str:
        """Return a name for the images that each accuracy was measured on."""
        held_out = self.state["plan"].get("held_out")
        return "held-out training images" if held_out else "test images"

    @property
    def commits(self) -> str:
        """Commits of the code that measured the runs, in the order of their first run."""
        return ", ".join(dict.fromkeys(run["commit"] for run in self.state["runs"]))

    def names(self) -> list[str]:
        """Return the names of the rows: references first, then objectives in the user's order."""
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
        """Return the planned numbers of labels of fine-tuning."""
        return self.state["plan"]["tune_labels"]

    def protocols(self) -> list[tuple[str, dict[str, Interval]]]:
        """Return title and intervals, by the name of the row, of each protocol with any result."""
        found = [
            (f"{label} probe" if probe != "nearest" else label, lambda n, p=probe: self.probe(n, p))
            for probe, label in PROBES.items()
        ]
        found += [
            (f"fine-tuned, {labels:,} labels", lambda n, k=labels: self.tuned(n, k))
            for labels in self.tune_labels()
        ]
        rows = {title: {n: v for n in self.names() if (v := value(n))} for title, value in found}
        return [(title, intervals) for title, intervals in rows.items() if intervals]

    def _runs(self, name: str) -> list[dict]:
        return [run for run in self.state["runs"] if run["name"] == name]

    def _interval(self, accuracies: Iterable[float | None]) -> Interval | None:
        known = [value for value in accuracies if value is not None]
        return interval(known, self.tested) if known else None

    def table(self) -> str:
        """Return the table in Markdown."""
        head = ["features", "seeds", "images", "TFLOP", "minutes", *PROBES.values()]
        head += [f"tuned, {labels:,} labels" for labels in self.tune_labels()]
        lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
        for name in self.names():
            runs = self._runs(name)
            minutes = [run["minutes"] for run in runs if run.get("minutes")]
            images = self.state["plan"]["images"].get(name)
            cells = [name, str(len(runs)), f"{images:,}" if images else ""]
            cells += [self._tflop(name)]
            cells += [f"{sum(minutes) / len(minutes):.0f}" if minutes else ""]
            cells += [self._cell([run.get(probe) for run in runs]) for probe in PROBES]
            tuned = [run.get("tuned", {}) for run in runs]
            cells += [self._cell([t.get(str(n)) for t in tuned]) for n in self.tune_labels()]
            lines.append("| " + " | ".join(cells) + " |")
        return "\n".join(lines)

    def _cell(self, accuracies: list[float | None]) -> str:
        """Return an interval, and the number of its seeds if some of the row are missing."""
        count = len(accuracies) - accuracies.count(None)
        if not count:
            return ""
        seeds = f", {count} seed{'s' * (count > 1)}" if count < len(accuracies) else ""
        return f"{self._interval(accuracies)}{seeds}"

    def _tflop(self, name: str) -> str:
        """Return the cost of a pretraining run: the backward pass costs two forward passes."""
        mflop = self.state.get("mflops", {}).get(name)
        if not mflop:
            return ""
        mflop = 3 * mflop + self.state.get("target_mflops", {}).get(name, 0)
        return f"{mflop * self.state['plan']['images'][name] / 1e6:.1f}"

    def sentences(self) -> list[str]:
        """Compare each objective with the references, one sentence for each protocol.

        A row that varies a setting is compared with the row of the config as it is.
        """
        return [line for name in self.state["plan"]["images"] for line in self._sentences(name)]

    def _sentences(self, name: str) -> list[str]:
        lines = []
        varied = varied_row(name)
        for probe, label in PROBES.items():
            others = [varied] if varied else [RAW, RANDOM]
            references = {other: self.probe(other, probe) for other in others}
            title = f"{name}, {label}" if probe == "nearest" else f"{name}, {label} probe"
            lines.append(self._sentence(title, self.probe(name, probe), references))
        scratch = [other for other in self.names() if other.startswith(SCRATCH)]
        for labels in self.tune_labels():
            others = [varied] if varied else scratch
            references = {other: self.tuned(other, labels) for other in others}
            title = f"{name}, fine-tuned with {labels:,} labels"
            lines.append(self._sentence(title, self.tuned(name, labels), references))
        return [line for line in lines if line]

    def _sentence(
        self, title: str, value: Interval | None, references: dict[str, Interval | None]
    ) -> str:
        """Return the sentence, or an empty string if the value or all references are missing."""
        known = {name: other for name, other in references.items() if value and other}
        relations = [f"{value.against(other)} {name}" for name, other in known.items()]
        return f"{title}: {value}; {', '.join(relations)}." if relations else ""


def about_machine() -> dict[str, str]:
    """Return what a result depends on besides the config: machine, threads, torch and commit."""
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
    machine = f"{device}, {os.cpu_count()} cores, {torch.get_num_threads()} threads a process"
    return dict(machine=machine, torch=torch.__version__, commit=commit)
