"""``xtra complete``: draw images that a pretrained model continues or reconstructs."""

from collections.abc import Iterator
from pathlib import Path

import click

from xtra_toolkit.cli.show import check_picture
from xtra_toolkit.utils.quiet_imports import quiet_imports

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.argument("config")
@click.argument("checkpoint", type=FILE)
@click.argument("images", nargs=-1, required=True, type=FILE)
@click.option(
    "--out",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="The picture: .pdf, .png or .svg. It is overwritten.",
)
@click.option("--given", type=int, help="Number of known units. Default: half of them.")
@click.option(
    "--stats",
    type=click.Choice(["previous"]),
    help="Give each unit of a normalised target the mean and deviation of the unit before it.",
)
def complete(
    config: str,
    checkpoint: Path,
    images: tuple[Path, ...],
    out: Path,
    given: int | None,
    stats: str | None,
) -> None:
    """Draw what a pretrained model predicts of images.

    An autoregressive model (XTRA, AIM) continues each image from its first --given units, blocks or
    tokens. Columns show the input, each unit predicted from the true ones before it
    (teacher-forced), each unit predicted from those predicted before it (free-running), and the
    truth. A model with a normalised target, as in xtra_vit-b16, runs free with --stats previous
    alone, and loses contrast from unit to unit; without the option that column is left out. Of MAE
    the reconstruction is drawn.

    CONFIG is the one that CHECKPOINT was trained with, a file or the name of a shipped config; the
    run's folder holds a copy. IMAGES are scaled and cropped at the centre to its size.

    CONFIG is code: it is executed, also the copy in a run's folder, and so must come from somebody
    you trust. Nothing in CHECKPOINT or IMAGES is executed.
    """
    check_picture(out)
    if out.resolve() in [image.resolve() for image in images]:
        raise click.UsageError(f"{out} is one of the images; name another file")
    with quiet_imports():
        import torch
        from mmengine.logging import MMLogger

        from xtra_toolkit.comparison.plan import find_config
        from xtra_toolkit.visualization.predictions.image_panels import panels
        from xtra_toolkit.visualization.predictions.load import load_model, read_images, to_pixels
        from xtra_toolkit.visualization.predictions.sheet import DPI, ImageColumn, sheet

        MMLogger.get_instance("xtra complete", log_level="ERROR")  # building prints the certificate
        model = load_model(find_config(config), checkpoint)
    if torch.cuda.is_available():
        model.cuda()
    made = panels(model, read_images(list(images), model), given, stats)
    columns = [
        ImageColumn(p.name, to_pixels(p.images, model.data_preprocessor), p.note, p.bordered)
        for p in made
    ]
    sheet(columns).savefig(out, dpi=DPI)
    for line in errors(images, made):
        click.echo(line)
    names = [panel.name for panel in made]
    if "teacher-forced" in names and "free-running" not in names:
        click.echo(
            "Free running is left out: the model predicts each unit without its mean and standard "
            "deviation, and those of a unit to come are not known. Add --stats previous to use "
            "those of the unit before it."
        )
    click.echo(f"{out}: drawn")


def errors(images: tuple[Path, ...], panels: list) -> Iterator[str]:
    """Yield lines with the error of each image's predictions."""
    shown, *predicted, truth = panels
    yield "mean squared error of the hidden pixels, in the normalisation of the model:"
    for panel in predicted:
        panel_errors = panel.error(shown.images, truth.images).tolist()
        for path, error in zip(images, panel_errors, strict=True):
            yield f"  {panel.name}  {error:.3f}  {path}"
