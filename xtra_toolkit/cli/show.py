"""``xtra show``: print and draw what pretraining configs do."""

from pathlib import Path

import click

from xtra_toolkit.utils.quiet_imports import quiet_imports

SUFFIXES = (".pdf", ".png", ".svg")


@click.command()
@click.argument("arguments", nargs=-1, required=True, metavar="CONFIG [KEY=VALUE]...")
@click.option(
    "--cfg-options",
    multiple=True,
    metavar="KEY=VALUE...",
    help="Overrides of all configs, as in mim train.",
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Draw into this file: .pdf, .png or .svg.",
)
@click.option(
    "--panels",
    default="order,prediction,attention,raster",
    show_default=True,
    help="Panels to draw. raster is the attention in the order of the image.",
)
@click.option(
    "--predict",
    type=int,
    metavar="N",
    help="Number of the prediction to show. Default: a middle one.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of a random mask.")
def show(
    arguments: tuple[str, ...],
    cfg_options: tuple[str, ...],
    out: Path | None,
    panels: str,
    predict: int | None,
    seed: int,
) -> None:
    """Show pretraining configs: mask, attention, a prediction, certificate and cost.

    Print the order of the tokens, which may attend to which, one prediction with its sources and
    targets, the certificate, and for each part of the model what it computes, its parameters, FLOPs
    and attention back end on this machine. With --out, draw the objective too. The model is built
    on the meta device, which allocates nothing.

    A pair of mask and target that leaks is refused, as in training. The leaking prediction is then
    shown, and the exit code is 1.

    CONFIG is a file or the name of a shipped config. Several are drawn side by side; KEY=VALUE
    changes the config before it, and --cfg-options all of them.

    CONFIG is code: it is executed, and so must come from somebody you trust. The runs of others are
    shown by xtra report, which executes nothing.
    """
    with quiet_imports():
        from xtra_toolkit.comparison.plan import find_config
        from xtra_toolkit.visualization.objectives.build import read_config
        from xtra_toolkit.visualization.objectives.summary import summarise

    chosen = check_panels(panels)
    if out is not None:
        check_picture(out)
    summaries, configs = [], by_config(arguments, cfg_options)
    for path, options in ((find_config(name), options) for name, options in configs):
        summary = summarise(read_config(path, options), path, predict, seed)
        summary.name = path.stem if len(configs) > 1 else ""
        summaries.append(summary)
    if out is not None:  # before the text, whose reader (head) may stop early
        from xtra_toolkit.visualization.objectives.figure import draw

        draw(summaries, chosen).savefig(out, dpi=160)
    for summary in summaries:
        for line in [summary.name, *summary.lines(), ""] if summary.name else summary.lines():
            click.echo(line)
    if out is not None:
        click.echo(f"\n{out}: drawn")
    if any(summary.refusal for summary in summaries):
        click.get_current_context().exit(1)


def by_config(
    arguments: tuple[str, ...], for_all: tuple[str, ...]
) -> list[tuple[str, tuple[str, ...]]]:
    """Return each config with its overrides: those for all, and those that follow it."""
    configs: list[tuple[str, tuple[str, ...]]] = []
    for argument in arguments:
        if "=" not in argument or Path(argument).is_file():
            configs.append((argument, for_all))
        elif configs:
            name, options = configs.pop()
            configs.append((name, (*options, argument)))
        else:
            for_all += (argument,)
    if not configs:
        raise click.UsageError("name a config before KEY=VALUE")
    return configs


def check_panels(panels: str) -> list[str]:
    """Split a list of panels at its commas; raise a usage error if one is unknown."""
    from xtra_toolkit.visualization.objectives.summary import PANELS

    chosen = panels.split(",")
    if unknown := [panel for panel in chosen if panel not in PANELS]:
        raise click.UsageError(
            f"--panels {panels}: there is no panel {unknown[0]!r}; name some of {', '.join(PANELS)}"
        )
    return chosen


def check_picture(out: Path) -> None:
    """Raise a usage error if the picture cannot be written, before anything is computed."""
    if out.suffix not in SUFFIXES:
        raise click.UsageError(f"{out}: name a file that ends in {', '.join(SUFFIXES)}")
    if not out.absolute().parent.is_dir():
        raise click.UsageError(f"{out}: there is no folder {out.absolute().parent}")
