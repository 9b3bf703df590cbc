"""The certificate and the mask's picture of each objective of a page."""

import io
from dataclasses import dataclass, field

from mmengine.config import Config
from PIL import Image

from xtra_toolkit.visualization.objectives import text
from xtra_toolkit.visualization.objectives.build import pretraining
from xtra_toolkit.visualization.objectives.summary import Summary, summary_of
from xtra_toolkit.visualization.report.allowed_parts import check_parts
from xtra_toolkit.visualization.report.facts import RunColumn
from xtra_toolkit.visualization.report.pictures import encoded

HERE = ("back ends",)  # of the machine that writes the page, not of the run's
DPI = 110


@dataclass
class Objective:
    """A pair on its grid.

    Args:
        title: the pair.
        runs: that have it, by number.
        notes: (name, sentence) each.
        picture: a data URI, None where the config cannot be built here.
        parts: (part, computes, parameters, FLOPs) each.
    """

    title: str
    runs: list[int]
    notes: list[tuple[str, str]]
    picture: str | None = None
    parts: list[tuple[str, ...]] = field(default_factory=list)


def objectives(columns: list[RunColumn]) -> list[Objective]:
    """The distinct ones of pretraining runs, in the order of runs."""
    models: dict[str, list[int]] = {}
    for number, column in enumerate(columns):
        if column.run.pretrains:
            models.setdefault(repr(column.run.config["model"]), []).append(number)
    found: dict[str, Objective] = {}
    for runs in models.values():  # models that differ elsewhere are one objective
        shown = described(columns[runs[0]], runs)
        same = found.setdefault(repr((shown.title, shown.notes, shown.parts)), shown)
        if same is not shown:
            same.runs += runs
    return list(found.values())


def described(column: RunColumn, runs: list[int]) -> Objective:
    """Built on the meta device, else from the log."""
    try:
        path = column.run.starts[-1] / "vis_data" / "config.py"
        model = column.run.config["model"]
        check_parts(model)
        return drawn(summary_of(pretraining(Config(dict(model=model)), path), path), runs)
    except Exception as error:  # a plugin raises what it likes, and may not be installed here
        logged = [log.certificate for log in column.history.logs if log.certificate]
        certificate = f"from its log: {logged[-1]}" if logged else "none in its log"
        reason = f"its model cannot be built here: {error}"
        return Objective(
            column.objective, runs, [("certificate", certificate), ("no picture", reason)]
        )


def drawn(shown: Summary, runs: list[int]) -> Objective:
    """As ``xtra show`` shows it."""
    buffer = io.BytesIO()
    shown.figure().savefig(buffer, format="png", dpi=DPI)
    return Objective(
        f"{shown.title} on {shown.view.grid}",
        runs,
        [note for note in shown.notes if note[0] not in HERE],
        encoded(Image.open(buffer, formats=["PNG"]), lossless=True),
        [(p.name, p.places, text.amount(p.parameters), text.amount(p.flops)) for p in shown.parts],
    )
