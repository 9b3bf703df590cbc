"""``xtra report``: finished benchmark runs as the paper's table."""

import warnings
from pathlib import Path

import click


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
def report(work_dirs: tuple[Path, ...], csv_file: Path | None) -> None:
    """Collect benchmark runs into the paper's table, as Markdown.

    WORK_DIRS are those of mim train, or folders above several. A row is a model and a protocol
    (attentive, linear, fine-tuning), a column one of the 15 data sets; the mean is given when all
    15 are there. A model is named by its checkpoint, and by its mask where backbone.change_mask
    replaced the encoder's own. The paper's figures stand below, marked as the paper's. Unfinished
    runs are listed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of OpenMMLab's imports
        from xtra_toolkit.report.runs import find_runs
        from xtra_toolkit.report.table import markdown, write_csv

    runs = find_runs(work_dirs)
    for line in markdown(runs):
        click.echo(line)
    if csv_file:
        with open(csv_file, "w", newline="") as file:
            write_csv(runs, file)
