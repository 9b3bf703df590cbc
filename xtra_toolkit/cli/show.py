"""``xtra show``: print and draw what a pretraining config does."""

from pathlib import Path

import click

from xtra_toolkit.utils.quiet_imports import quiet_imports

SUFFIXES = (".pdf", ".png", ".svg")


@click.command()
@click.argument("config", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--cfg-options", multiple=True, metavar="KEY=VALUE...", help="As of mim train.")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Draw into this file: .pdf, .png or .svg.",
)
@click.option("--predict", type=int, metavar="N", help="Which prediction; default: a middle one.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of a random mask's draw.")
def show(
    config: Path,
    overrides: tuple[str, ...],
    cfg_options: tuple[str, ...],
    out: Path | None,
    predict: int | None,
    seed: int,
) -> None:
    """Show a pretraining config: mask, attention, a prediction, certificate and cost.

    Prints, and with --out draws, in which order the tokens come and which may see which, from
    where a prediction is made, of what, and what it reads, and what the certificate says. Prints
    how much is computed, what each part holds and costs, and which attention back end runs here.
    Nothing is allocated: the model is built on the meta device.

    A pair that leaks is refused, as in training, and the leaking prediction is shown; the exit
    code is then 1.

    CONFIG is code: it is executed, and so must come from somebody you trust. The runs of others are
    shown by xtra report, which executes nothing.
    """
    with quiet_imports():
        from xtra_toolkit.visualization.objectives.summary import summarise

    if out is not None:
        check_picture(out)
    shown = summarise(config, (*cfg_options, *overrides), predict, seed)
    if out is not None:  # before the text, whose reader (head) may stop early
        shown.figure().savefig(out, dpi=160)
    for line in shown.lines():
        click.echo(line)
    if out is not None:
        click.echo(f"\n{out}: drawn")
    if shown.refusal:
        click.get_current_context().exit(1)


def check_picture(out: Path) -> None:
    """Raise a usage error if the picture cannot be written, before anything is computed."""
    if out.suffix not in SUFFIXES:
        raise click.UsageError(f"{out}: name a file that ends in {', '.join(SUFFIXES)}")
    if not out.absolute().parent.is_dir():
        raise click.UsageError(f"{out}: there is no folder {out.absolute().parent}")
