"""``xtra compare``: compare objectives on one's own images, within a time budget."""

from pathlib import Path
from typing import Any

import click

from xtra_toolkit.utils.quiet_imports import quiet_imports


@click.command()
@click.argument("configs", nargs=-1)
@click.option(
    "--data",
    help="A folder with train/CLASS and test/CLASS, a folder with the four idx files of "
    "Fashion-MNIST, or cifar10, which is downloaded.",
)
@click.option(
    "--budget", default="2h", show_default=True, help="Time for everything: 90m, 2h or 1d."
)
@click.option(
    "--images", type=click.IntRange(1), help="Images that a run sees. It replaces the budget."
)
@click.option(
    "--equal",
    type=click.Choice(["images", "compute"]),
    default="images",
    show_default=True,
    help="Whether all runs see the same number of images, or cost the same FLOPs.",
)
@click.option("--seeds", type=click.IntRange(1), default=2, show_default=True)
@click.option(
    "--labels",
    type=click.IntRange(50),
    default=10_000,
    show_default=True,
    help="Labelled images of the probes.",
)
@click.option(
    "--tune",
    type=click.FloatRange(0, 1, min_open=True),
    multiple=True,
    default=(0.1,),
    show_default=True,
    help="Share of the training images that have labels in fine-tuning. It may be repeated.",
)
@click.option(
    "--tune-epochs",
    type=click.IntRange(0),
    help="Epochs of fine-tuning with the largest share. Default: what fits in the budget. 0: no "
    "fine-tuning.",
)
@click.option("--out", type=click.Path(path_type=Path), default="work_dirs/compare")
@click.option(
    "-o", "--option", "overrides", multiple=True, metavar="KEY=VALUE", help="Change all configs."
)
@click.option(
    "--vary",
    "variations",
    multiple=True,
    metavar="KEY=VALUE",
    help="Add a row for each config with this setting changed, or several, with blanks between "
    "them. Each config must have the setting. It may be repeated.",
)
@click.option(
    "--hold-out",
    "held_out",
    type=click.IntRange(0),
    default=0,
    help="Hold out so many training images and test on them, to choose settings without looking "
    "at the test images. The configs must read packed images, as those of mmconfigs/small do.",
)
@click.option(
    "--redraw",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Only write page and plots again, beside this JSON file of results.",
)
def compare(
    configs: tuple[str, ...], data: str | None, out: Path, redraw: Path | None, **options: Any
) -> None:
    """Compare pretraining configs on your images: pretrain, probe, fine-tune and report.

    CONFIGS are pretraining configs, files or names of shipped ones such as xtra_vit-b16. Each is
    trained with several seeds as mim train does, on the same images and for as long as the budget
    allows: 60 % of it goes to pretraining and 30 % to fine-tuning. The frozen encoders are probed
    by logistic regression, nearest neighbours and an attentive probe, and fine-tuned with a share
    of the labels. References are raw pixels, a random encoder and training from scratch.

    To choose settings, vary one at a time and judge by held-out training images: --vary
    optim_wrapper.optimizer.lr=0.001 --vary optim_wrapper.optimizer.lr=0.004 --hold-out 5000.

    OUT receives compare.json after each measurement, with compare.md and compare.png drawn from
    it, compare_blocks.png if the configs differ in their block size, and report.html, the page of
    xtra report. If runs keep several checkpoints (-o default_hooks.checkpoint.max_keep_ckpts=-1),
    loss and linear probe of each are measured too, with their rank correlation. Give a command
    that was stopped again to continue it, with more seeds or more configs if you like; what is in
    compare.json is not measured again, even if the folders of its runs were removed.
    """
    if not redraw and not (configs and data):
        raise click.UsageError("name at least one config, and the images with --data")
    with quiet_imports():
        from xtra_toolkit.cli.report import write_page
        from xtra_toolkit.comparison.blocks import block_sentences
        from xtra_toolkit.comparison.compare import start
        from xtra_toolkit.comparison.report import write_report
        from xtra_toolkit.comparison.results import Results
        from xtra_toolkit.visualization.report.runs import find_runs

        if redraw:
            write_report(Results(redraw), redraw.with_suffix(""))
            click.echo(f"{redraw.with_suffix('.md')}, {redraw.with_suffix('.png')}: written")
            return
        comparison = start(configs, data, out, **options)
        comparison.run()
        if (out / "runs").exists():
            write_page(find_runs([out / "runs"]), out / "report.html")
        click.echo(f"\n{comparison.results.table()}\n")
        for line in comparison.results.sentences() + block_sentences(comparison.results):
            click.echo(line)
        click.echo(f"{out / 'compare.md'}, {out / 'compare.png'}: written")
