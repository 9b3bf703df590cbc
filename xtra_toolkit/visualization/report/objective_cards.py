"""Describe each objective of a page: its certificate, a picture of its mask, its costs."""

import io
from dataclasses import dataclass, field

from matplotlib.figure import Figure
from mmengine.config import Config
from PIL import Image

from xtra_toolkit.visualization.objectives import text
from xtra_toolkit.visualization.objectives.build import pretraining
from xtra_toolkit.visualization.objectives.figure import single
from xtra_toolkit.visualization.objectives.summary import PANELS, Summary, summarise
from xtra_toolkit.visualization.report.allowed_parts import check_parts
from xtra_toolkit.visualization.report.facts import RunColumn
from xtra_toolkit.visualization.report.pictures import encoded

IGNORED = ("back ends",)  # these are of the machine that writes the page, not of the run
DPI = 180


@dataclass
class Objective:
    """Hold the description of an objective on its grid.

    Args:
        title: The mask and the target.
        runs: Numbers of the runs that have it.
        notes: Facts about it, as (name, sentence).
        pictures: Pictures of its panels as data URIs; empty if the model cannot be built here.
        parts: Costs of the parts of the model, as (part, computes, parameters, FLOPs).
    """

    title: str
    runs: list[int]
    notes: list[tuple[str, str]]
    pictures: list[str] = field(default_factory=list)
    parts: list[tuple[str, ...]] = field(default_factory=list)


def objectives(columns: list[RunColumn]) -> list[Objective]:
    """Return the distinct objectives of pretraining runs, in the order of the runs."""
    models: dict[str, list[int]] = {}
    for number, column in enumerate(columns):
        if column.run.pretrains:
            models.setdefault(repr(column.run.config["model"]), []).append(number)
    found: dict[str, Objective] = {}
    for runs in models.values():  # different models may have the same objective
        new = described(columns[runs[0]], runs)
        known = found.setdefault(repr((new.title, new.notes, new.parts)), new)
        if known is not new:
            known.runs += runs
    return list(found.values())


def described(column: RunColumn, runs: list[int]) -> Objective:
    """Describe the objective of a run by its model; by its log if the model fails to build."""
    try:
        path = column.run.starts[-1] / "vis_data" / "config.py"
        model = column.run.config["model"]
        check_parts(model)
        return drawn(summarise(pretraining(Config(dict(model=model)), path), path), runs)
    except Exception as error:  # a plugin may raise anything, or not be installed here
        logged = [log.certificate for log in column.history.logs if log.certificate]
        certificate = f"from its log: {logged[-1]}" if logged else "none in its log"
        reason = f"its model cannot be built here: {error}"
        return Objective(
            column.objective, runs, [("certificate", certificate), ("no picture", reason)]
        )


def drawn(summary: Summary, runs: list[int]) -> Objective:
    """Describe an objective as ``xtra show`` does."""
    return Objective(
        f"{summary.title} on {summary.view.grid}",
        runs,
        [note for note in summary.notes if note[0] not in IGNORED],
        [picture(single(summary, panel)) for panel in PANELS],
        [
            (p.name, p.places, text.amount(p.parameters), text.amount(p.flops))
            for p in summary.parts
        ],
    )


def picture(figure: Figure) -> str:
    """Return a figure as a data URI."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return encoded(Image.open(buffer, formats=["PNG"]), lossless=True)
