"""The table of benchmark runs and the paper's rows: models by benchmarks, with the mean."""

import csv
from collections import defaultdict
from collections.abc import Iterable, Iterator
from statistics import fmean
from typing import TextIO

from xtra_toolkit.visualization.report.paper import BENCHMARKS, REPORTED, Reported
from xtra_toolkit.visualization.report.runs import Run

HEADER = ["model", "protocol", *BENCHMARKS, "mean of 15"]
TABLE = "In the table"
EPOCHS = 100  # epochs of the paper's probes
NOTES = """\
Top-1 accuracy in per cent. Rows marked "paper" are figures of arXiv 2411.15648 and were not
measured here; blank cells of theirs are not known here. As in the paper, the best of a sweep's
learning rates is chosen on the images that it is reported on. Figures that share a cell are
several runs."""


def rows(runs: Iterable[Run]) -> list[list[str]]:
    """Return the rows below ``HEADER``: finished runs by model and protocol, then the paper's."""
    models = defaultdict(lambda: defaultdict(list))
    for run in runs:
        if place(run) == TABLE:
            protocol = run.protocol
            if run.length != EPOCHS:
                protocol += f", {run.length} of {EPOCHS} epochs"
            models[run.model, protocol][run.benchmark].append(run.accuracy)
    own = [
        [*key, *(" / ".join(f"{a:.1f}" for a in cells.get(b, ())) for b in BENCHMARKS), mean(cells)]
        for key, cells in sorted(models.items())
    ]
    return own + [paper_row(row) for row in REPORTED]


def place(run: Run) -> str:
    """Return the heading under which a run is listed."""
    if run.benchmark not in BENCHMARKS:
        return "Not one of the 15 benchmarks"
    return TABLE if run.finished else "Unfinished, not in the table"


def mean(cells: dict[str, list[float]]) -> str:
    """Return the mean over all 15 benchmarks, or why there is none."""
    if len(cells) < len(BENCHMARKS):
        return f"{len(cells)} of {len(BENCHMARKS)}"
    if repeated := [name for name in BENCHMARKS if len(cells[name]) > 1]:
        return f"several runs of {', '.join(repeated)}"
    return f"{fmean(value for (value,) in cells.values()):.1f}"


def paper_row(row: Reported) -> list[str]:
    """Return a row of the paper, marked as such."""
    cells = [row.accuracy.get(name) for name in BENCHMARKS] + [row.mean]
    return [
        f"paper: {row.model}",
        row.protocol,
        *("" if cell is None else f"{cell:.1f}" for cell in cells),
    ]


def markdown(runs: list[Run]) -> Iterator[str]:
    """Yield the lines of the report in Markdown: the table, notes, and a list of all runs."""
    yield from (f"| {' | '.join(row)} |" for row in (HEADER, ["---"] * len(HEADER), *rows(runs)))
    yield from ("", NOTES)
    places = defaultdict(list)
    for run in runs:
        places[place(run)].append(run)
    for title in sorted(places):
        yield from ("", f"{title}:", "")
        for run in places[title]:
            name = run.benchmark or "unnamed data set"
            yield f"- {name}, {run.protocol}: {run.state}; {run.folder}"


def write_csv(runs: list[Run], file: TextIO) -> None:
    """Write only the table, as CSV."""
    csv.writer(file).writerows([HEADER, *rows(runs)])
