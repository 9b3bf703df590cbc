"""One HTML file for runs side by side, that needs nothing but itself.

The template escapes what came from files. The page's own policy forbids it to load anything, and
to run any script but the one that it was written with.
"""

import base64
import hashlib
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
    """Runs side by side; benchmarks are those that may have begun from their checkpoints."""
    names = [column.name for column in columns]
    environment = Environment(
        loader=PackageLoader("xtra_toolkit.visualization.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style, script = (
        environment.loader.get_source(environment, name)[0] for name in ("page.css", "page.js")
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    shown = kinds(columns)  # before the facts: it notes which pictures cannot be shown
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
        facts=facts.table(columns),
        differences=differences(column.run.config.to_dict() for column in columns),
        changes=[(column.name, *changed(column.run)) for column in columns],
        configs=[(column.name, text_of(column.run)) for column in columns],
        objectives=objectives(columns),
        curves=list(charts.training(columns)),
        splits=list(charts.splits(columns)),
        throughput=list(charts.throughput(columns)),
        pictures=shown,
        scaling=scalings(columns, benchmarks),
        versions=versions(columns),
        svg=Markup,
    )


def text_of(run: Run) -> str:
    """Its last config in MMEngine's layout; the file's own text where that has none for it."""
    try:
        return run.config.pretty_text
    except SyntaxError:
        return (run.starts[-1] / "vis_data" / "config.py").read_text(errors="replace")


def changed(run: Run) -> tuple[list[str], list]:
    """The starts of a run, and what its config changed between them."""
    return [s.name for s in run.starts], differences(config_of(s)[0].to_dict() for s in run.starts)


def versions(columns: list[facts.RunColumn]) -> list[tuple[str, list[str]]]:
    """(what, its version in each run)."""
    found = [column.versions for column in columns]
    keys = dict.fromkeys(key for version in found for key in version)
    return [(key, [version.get(key, "not in its log") for version in found]) for key in keys]


def scalings(columns: list[facts.RunColumn], benchmarks: list[Run]) -> list[dict]:
    """For each measure its drawing, its correlations, its points."""
    found = scaling.points(columns, benchmarks)
    names = [column.name for column in columns]
    drawn = []
    for measure in dict.fromkeys(point.measure for point in found):
        of = [point for point in found if point.measure == measure]
        drawn.append(
            dict(
                measure=measure,
                drawing=charts.scatter(of),
                colours=charts.colours_of(of),
                runs=[(p.objective, p.run) for p in {p.run: p for p in of}.values()],
                correlations=scaling.correlations(of, names),
                points=of,
            )
        )
    return drawn


def write(text: str, path: Path) -> None:
    """Whole or not at all, and over nothing but an earlier page.

    Raises:
        ValueError: there is another file, or it cannot be written.
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
