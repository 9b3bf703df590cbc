"""Write one self-contained HTML file that shows runs side by side.

The template escapes all text that comes from files. The content security policy of the page forbids
it to load anything, and to run any script other than its own.
"""

import base64
import hashlib
import re
from datetime import datetime
from pathlib import Path

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from xtra_toolkit import __version__
from xtra_toolkit.utils.atomic import replacing
from xtra_toolkit.visualization.report import charts, facts, scaling
from xtra_toolkit.visualization.report.differences import differences
from xtra_toolkit.visualization.report.objective_cards import objectives
from xtra_toolkit.visualization.report.pictures import kinds
from xtra_toolkit.visualization.report.plots import COLOURS
from xtra_toolkit.visualization.report.runs import Run, config_of

GENERATOR = '<meta name="generator" content="xtra report">'


def html(columns: list[facts.RunColumn], benchmarks: list[Run]) -> str:
    """Return the HTML of a page.

    Args:
        columns: The runs to show side by side.
        benchmarks: Runs that may have started from their checkpoints, for the scaling plots.
    """
    names = [column.name for column in columns]
    environment = Environment(
        loader=PackageLoader("xtra_toolkit.visualization.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["breakable"] = breakable
    style, script = (
        environment.loader.get_source(environment, name)[0] for name in ("page.css", "page.js")
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    pictures = kinds(columns)  # before the facts: it adds notes on pictures that cannot be shown
    return environment.get_template("page.html").render(
        generator=Markup(GENERATOR),
        style=Markup(style),
        script=Markup(script),
        script_digest=digest,
        version=__version__,
        now=f"{datetime.now():%Y-%m-%d %H:%M}",
        names=names,
        colour=lambda number: number % COLOURS,
        glyph=charts.glyph,
        facts=facts.table(columns, scaling.last(scaling.measured(columns, benchmarks))),
        differences=differences(column.run.config.to_dict() for column in columns),
        changes=[(column.name, *changed(column.run)) for column in columns],
        configs=[(column.name, text_of(column.run)) for column in columns],
        objectives=objectives(columns),
        curves=list(charts.training(columns)),
        splits=list(charts.splits(columns)),
        throughput=list(charts.throughput(columns)),
        pictures=pictures,
        scaling=scalings(columns, benchmarks),
        versions=versions(columns),
        svg=Markup,
    )


def breakable(text: object) -> Markup:
    """Allow line breaks between the parts of a path, a dotted key or a call, and nowhere else."""
    parts = re.split(r"(?<=[/_,(=])(?=\w)|(?<=\w\.)(?=[A-Za-z_])", str(text))
    return Markup("<wbr>").join(parts)


def text_of(run: Run) -> str:
    """Return the last config of a run, formatted by MMEngine; its file unchanged if that fails."""
    try:
        return run.config.pretty_text
    except SyntaxError:
        return (run.starts[-1] / "vis_data" / "config.py").read_text(errors="replace")


def changed(run: Run) -> tuple[list[str], list]:
    """Return the starts of a run and the differences between their configs."""
    return [s.name for s in run.starts], differences(config_of(s)[0].to_dict() for s in run.starts)


def versions(columns: list[facts.RunColumn]) -> list[tuple[str, list[str]]]:
    """Return the rows of the table of versions, (name, its version in each run)."""
    found = [column.versions for column in columns]
    keys = dict.fromkeys(key for version in found for key in version)
    return [(key, [version.get(key, "not in its log") for version in found]) for key in keys]


def scalings(columns: list[facts.RunColumn], benchmarks: list[Run]) -> list[dict]:
    """Return the plot, the correlations and the points of each measure of accuracy."""
    all_points = scaling.points(columns, benchmarks)
    names = [column.name for column in columns]
    plots = []
    for measure in dict.fromkeys(point.measure for point in all_points):
        points = [point for point in all_points if point.measure == measure]
        first = {point.run: point for point in points}.values()
        plots.append(
            dict(
                measure=measure,
                drawing=charts.scatter(points),
                runs=[(charts.objectives_of(points).index(p.objective), p.run) for p in first],
                correlations=scaling.correlations(points, names),
                points=points,
            )
        )
    return plots


def write(text: str, path: Path) -> None:
    """Write a page atomically; replace an existing file only if it is an earlier page.

    Raises:
        ValueError: If the path is another file, or cannot be written.
    """
    try:
        if path.exists() and GENERATOR not in path.read_text(errors="replace"):
            raise ValueError(
                f"{path} is no page of xtra report, and is left as it is: name another file with "
                "--html."
            )
        with replacing(path) as file:
            file.write(text.encode(errors="replace"))
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error}. Name a file with --html.") from error
