"""``xtra dataset``: write the lists of images of a benchmark from its published metadata."""

from pathlib import Path

import click

from xtra_toolkit.utils.atomic import replacing
from xtra_toolkit.utils.quiet_imports import quiet_imports

NAMES = ("camelyon17", "eurosat", "fmow", "inat18", "iwildcam", "pcam", "rxrx1")


@click.command()
@click.argument("name", type=click.Choice(NAMES))
@click.argument("source", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--force", is_flag=True, help="Overwrite the lists.")
def dataset(name: str, source: Path, force: bool) -> None:
    """Write train.txt and val.txt of a benchmark into SOURCE, its unpacked folder.

    A line is an image's path below SOURCE and its label; mmconfigs/benchmarks reads the lists. The
    benchmarks that are not named here need no lists. pcam also writes its images, as PNG files.

    The readers follow the public documentation; they have not been tested on the real data.
    """
    with quiet_imports():
        from xtra_toolkit.evaluation.published_datasets import READERS

    lists = {split: source / f"{split}.txt" for split in ("train", "val")}
    for path in lists.values():
        if path.exists() and not force:
            raise click.UsageError(f"{path} exists; overwrite it with --force")
    samples = list(READERS[name](source))
    check(samples, source)
    for split, path in lists.items():
        chosen = [(image, label) for part, image, label in samples if part == split]
        with replacing(path) as file:
            file.writelines(f"{image} {label}\n".encode() for image, label in chosen)
        classes = len({label for _, label in chosen})
        click.echo(f"{path}: {len(chosen)} images of {classes} classes")


def check(samples: list[tuple[str, str, int]], source: Path) -> None:
    """Raise a ValueError if a split has no images, or if images of the lists are missing."""
    for split in ("train", "val"):
        if split not in {part for part, _, _ in samples}:
            raise ValueError(f"The metadata in {source} names no image of the split {split!r}.")
    absent = [image for _, image, _ in samples if not (source / image).is_file()]
    if absent:
        raise ValueError(
            f"{len(absent)} of the {len(samples)} images that the metadata names are not below "
            f"{source}, the first is {absent[0]}. Unpack all archives there."
        )
