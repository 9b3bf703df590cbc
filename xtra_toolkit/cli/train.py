"""``xtra train``: pretrain on a folder of one's own images."""

from pathlib import Path
from typing import Any

import click

from xtra_toolkit.utils.quiet_imports import quiet_imports


@click.command()
@click.argument("config")
@click.option("--data", type=click.Path(path_type=Path), help="A folder of images, at any depth.")
@click.option("--size", type=click.IntRange(1), help="Side of the encoder's images in pixels.")
@click.option(
    "--arch",
    help="Size of the encoder: ti, s, b, l, h, or a name of MMPretrain. The widths of decoder and "
    "head keep their share of the encoder's.",
)
@click.option("--epochs", type=click.IntRange(1), help="The schedule keeps its shares of the run.")
@click.option(
    "--batch",
    type=click.IntRange(1),
    help="Images of a step. Default: the config's, or what leaves an epoch four steps. What does "
    "not fit the memory is accumulated.",
)
@click.option(
    "--lr",
    type=click.FloatRange(0, min_open=True),
    help="Peak learning rate. Default: the config's, by the square root of the batch.",
)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="The work folder.")
@click.option(
    "--gpus",
    "processes",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Processes of this machine, one for each GPU; where there is no GPU, on its CPU.",
)
@click.option("--resume", is_flag=True, help="Go on with the run in the work folder.")
@click.option("--overwrite", is_flag=True, help="Remove the checkpoints in the work folder.")
@click.option("-o", "--option", "options", multiple=True, metavar="KEY=VALUE", help="Of CONFIG.")
def train(
    config: str,
    out: Path | None,
    options: tuple[str, ...],
    resume: bool,
    overwrite: bool,
    **numbers: Any,
) -> None:
    """Pretrain by CONFIG, a file or the name of a shipped one (xtra configs lists them).

    Options that are not given follow from the config, the images and the machine: crops, warm-up
    and decay, workers, accumulation, and the intervals of logs and pictures. The config that runs
    is written into the work folder, work_dirs/CONFIG by default; mim train repeats the run with
    it. The log goes to a file there. Stop after a number of steps with -o train_cfg.max_iters=3.

    Ctrl-C saves and leaves; --resume goes on.
    """
    if resume and overwrite:
        raise click.UsageError("--resume goes on with a run and --overwrite removes it: give one")
    with quiet_imports():
        from xtra_toolkit.comparison.plan import find_config
        from xtra_toolkit.training import recipe, start

        given = recipe.Numbers(**numbers)
        run = start.prepare(find_config(config), out, given, options, resume, overwrite)
    for line in run.summary():
        click.echo(line)
    start.train(run)
    with quiet_imports():
        for line in start.closing(run, write_report):
            click.echo(line)


def write_report(out: Path) -> Path | None:
    """Write the report of a run beside it, and return its path; None where there is none."""
    import contextlib
    import io

    from xtra_toolkit.cli.report import write_page
    from xtra_toolkit.visualization.report.runs import find_runs

    page = out / "report.html"
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            write_page(find_runs([out]), page)
    except ValueError as error:  # a run too short to have logged anything
        click.echo(f"no report: {error}", err=True)
        return None
    return page
