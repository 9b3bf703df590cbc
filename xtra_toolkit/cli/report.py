"""``xtra report``: show runs on a page, and their accuracies in a table."""

from pathlib import Path

import click

from xtra_toolkit.utils.quiet_imports import quiet_imports

PAGE = "report.html"


@click.command()
@click.argument(
    "work_dirs",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
)
@click.option(
    "--csv",
    "csv_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the table to this file too.",
)
@click.option(
    "--html",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File of the page. Default: report.html in the WORK_DIR, or here if there are several.",
)
def report(work_dirs: tuple[Path, ...], csv_file: Path | None, html: Path | None) -> None:
    """Show runs on a page, and collect accuracies in a table.

    WORK_DIRS are those of mim train, or folders above several. Runs keep the order in which they
    are given here.

    Pretraining runs become one HTML file, side by side: what their configs differ in, certificate,
    curves, pictures over time, throughput and memory, versions, and the loss against the accuracy
    of their probes and of the benchmark runs given here that began from their checkpoints. It
    opens without a network. With --html, runs of any kind do.

    Accuracies of benchmark runs and of online probes are printed as a table, in Markdown. A row is
    a model and a protocol (attentive, linear, fine-tuning), a column a data set under its own
    name; the mean is given when the paper's 15 are there. A model is named by its checkpoint, and
    by its mask where backbone.change_mask replaced the encoder's own. Figures of the paper stand
    below if one of their benchmarks was run, marked as the paper's. Unfinished runs are listed.

    A WORK_DIR may be a stranger's: nothing in it is executed. Its configs are read as data, and an
    objective is built of parts that this package and the installed plugins registered, or described
    from its log. What cannot be read is left out with a sentence.
    """
    with quiet_imports():
        from xtra_toolkit.visualization.report.runs import find_runs
        from xtra_toolkit.visualization.report.table import markdown, write_csv

        runs = find_runs(work_dirs, say=lambda sentence: click.echo(sentence, err=True))
        for line in markdown(runs):
            click.echo(line)
        if csv_file:
            with open(csv_file, "w", newline="") as file:
                write_csv(runs, file)
        if html or any(run.pretrains for run in runs):
            write_page(runs, html or (work_dirs[0] if len(work_dirs) == 1 else Path()) / PAGE)
        for run in runs:
            for note in run.notes:
                click.echo(f"{run.folder.parent}: {note}", err=True)


def write_page(runs: list, path: Path) -> None:
    """Write the page, and say so on standard error, as standard output may hold the table."""
    from xtra_toolkit.visualization.report import facts, page  # matplotlib is slow to import

    columns = facts.columns([run for run in runs if run.pretrains] or runs)
    for column in columns:
        click.echo(
            f"{column.name}: logged up to step {facts.steps(column)}; {facts.state(column)}",
            err=True,
        )
    page.write(page.html(columns, [run for run in runs if not run.pretrains]), path)
    click.echo(f"{path}: written", err=True)
