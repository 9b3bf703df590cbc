"""``xtra index``: list the images of a folder, so that training does not search for them."""

import os
from collections.abc import Callable
from pathlib import Path

import click

from xtra_toolkit.utils.atomic import replacing
from xtra_toolkit.utils.progress import progress
from xtra_toolkit.utils.quiet_imports import quiet_imports


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The list. Default: index.txt in FOLDER.",
)
@click.option("--with-label", is_flag=True, help="Sub-folders are classes, in alphabetical order.")
@click.option("--shards", is_flag=True, help="FOLDER holds tar shards, with labels in .cls files.")
@click.option("--force", is_flag=True, help="Overwrite the list.")
def index(folder: Path, out: Path | None, with_label: bool, shards: bool, force: bool) -> None:
    """List the images below FOLDER once, for every process of every training.

    A line is a path below FOLDER, with the number of its class if --with-label is given. The order
    is that of ImageFolder, so training with the list takes the same images in each step as training
    without it. Use it with

    \b
    --cfg-options train_dataloader.dataset.data_root=FOLDER
                  train_dataloader.dataset.ann_file=index.txt

    where ann_file is below FOLDER, or an absolute path. Run it again when images are added or
    removed.

    With --shards, FOLDER holds webdataset's tar files, not compressed, and a line is an image's
    place in one of them; use it with train_dataloader.dataset.type=xtra_toolkit.Shards.
    """
    target = out or folder / "index.txt"
    if target.exists() and not force:
        raise click.UsageError(f"{target} exists; name another file, or overwrite it with --force")
    if not target.absolute().parent.is_dir():
        raise click.UsageError(f"{target}: there is no folder {target.absolute().parent}")
    with quiet_imports():
        from xtra_toolkit.data.datasets import shards as tar

    with progress("images found") as found:
        if shards:
            lines = [line for line in tar.listed(folder, with_label) if found() is None]
        else:
            lines = _files(folder, with_label, found)
    split = [line for line in lines if line.splitlines() != [line]]
    if split:
        raise ValueError(
            f"{len(split)} file names contain a line break, the first is {split[0]!r}: rename them."
        )
    with replacing(target) as file:
        file.writelines(os.fsencode(line) + b"\n" for line in lines)
    classes = len({line.rpartition(" ")[2] for line in lines}) if with_label else 0
    click.echo(f"{target}: {len(lines):,} images" + f" of {classes} classes" * with_label)


def _files(folder: Path, with_label: bool, found: Callable) -> list[str]:
    from xtra_toolkit.data import ImageFolder

    class Counted(ImageFolder):
        def is_valid_file(self, filename: str) -> bool:
            return super().is_valid_file(filename) and not found()

    data = Counted(str(folder), with_label=with_label, lazy_init=True)
    samples = data._find_samples()
    return [" ".join(map(str, sample)) if with_label else sample for sample in samples]
