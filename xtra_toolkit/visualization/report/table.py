"""Make the table of accuracies: a row for each model, a column for each data set, and the mean.

The paper's rows stand below those of the runs.
"""

import csv
from collections import defaultdict
from collections.abc import Iterator
from statistics import fmean
from typing import TextIO

from xtra_toolkit.visualization.report.paper import BENCHMARKS, REPORTED
from xtra_toolkit.visualization.report.runs import Run

EPOCHS = 100  # epochs of the paper's probes
MEAN = "mean of 15"
NOTES = """\
Top-1 accuracy in per cent. As in the paper, the best of a sweep's learning rates is chosen on the
images that it is reported on. Figures that share a cell are several runs."""
PAPER = """\
Rows marked "paper" are figures of arXiv 2411.15648 and were not measured here; blank cells of
theirs are not known here."""
Accuracies = dict[str, list[float]]  # by data set


def table(runs: list[Run]) -> list[list[str]]:
    """Return the header and the rows of the table.

    There is a column for each data set that was measured, first the paper's 15 benchmarks and then
    others, and a row for each model and protocol, in the order of the runs. The paper's rows that
    have a figure in one of these columns follow.
    """
    models = measured(runs)
    found = dict.fromkeys(name for cells in models.values() for name in cells)
    known = [name for name in BENCHMARKS if name in found]
    names = known + [name for name in found if name not in known]
    means = [MEAN] * bool(known)
    rows = [["model", "protocol", *names, *means]]
    for key, cells in models.items():
        row = [" / ".join(f"{value:.1f}" for value in cells.get(name, ())) for name in names]
        rows.append([*key, *row, *([mean(cells)] if means else ())])
    complete = any(set(BENCHMARKS) <= set(cells) for cells in models.values())
    for paper in REPORTED:
        if any(name in paper.accuracy for name in known) or (complete and paper.mean):
            values = [paper.accuracy.get(name) for name in names] + [paper.mean]
            row = ["" if value is None else f"{value:.1f}" for value in values]
            rows.append([f"paper: {paper.model}", paper.protocol, *row])
    return rows


def measured(runs: list[Run]) -> dict[tuple[str, str], Accuracies]:
    """Return the accuracies of finished evaluations and of online probes by model and protocol."""
    models: dict[tuple[str, str], Accuracies] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        if run.finished and not run.pretrains:
            short = run.benchmark in BENCHMARKS and run.length != EPOCHS
            protocol = run.protocol + f", {run.length} of {EPOCHS} epochs" * short
            models[run.model, protocol][run.data].append(run.accuracy)
        for probe, accuracy in run.probes.items():
            models[str(run.folder.parent), probe][run.data].append(accuracy)
    return models


def mean(cells: Accuracies) -> str:
    """Return the mean over all 15 benchmarks, or why there is none."""
    found = [name for name in BENCHMARKS if name in cells]
    if len(found) < len(BENCHMARKS):
        return f"{len(found)} of {len(BENCHMARKS)}" if found else ""
    if repeated := [name for name in found if len(cells[name]) > 1]:
        return f"several runs of {', '.join(repeated)}"
    return f"{fmean(cells[name][0] for name in found):.1f}"


def markdown(runs: list[Run]) -> Iterator[str]:
    """Yield the lines of the report in Markdown: the table, notes, and a list of evaluations."""
    header, *rows = table(runs)
    if rows:
        yield from (f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows))
        yield from ("", NOTES)
        if rows[-1][0].startswith("paper: "):
            yield PAPER
    for finished, title in ((True, "In the table"), (False, "Unfinished, not in the table")):
        listed = [run for run in runs if not run.pretrains and run.finished is finished]
        if listed:
            yield from ("", f"{title}:", "")
        for run in listed:
            yield f"- {run.data}, {run.protocol}: {run.state}; {run.folder}"


def write_csv(runs: list[Run], file: TextIO) -> None:
    """Write only the table, as CSV."""
    csv.writer(file).writerows(table(runs))
