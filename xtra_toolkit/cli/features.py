"""``xtra features``: a frozen encoder's features of the images of a folder."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import click

from xtra_toolkit.utils.atomic import replacing
from xtra_toolkit.utils.progress import watched
from xtra_toolkit.utils.quiet_imports import quiet_imports

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
ENDINGS = (".safetensors", ".npy", ".parquet")


@click.command()
@click.argument("checkpoint", type=FILE)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--out",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="The file to write: .safetensors, .npy or .parquet.",
)
@click.option(
    "--output",
    type=click.Choice(["mean", "class_token"]),
    default="mean",
    show_default=True,
    help="mean: of the patch tokens of the last layer.",
)
@click.option(
    "--dtype",
    type=click.Choice(["bfloat16", "float32"]),
    help="In which the encoder runs. Default: bfloat16 on a GPU, float32 on a CPU.",
)
@click.option("--batch-size", type=click.IntRange(1), default=64, show_default=True)
@click.option("--workers", type=click.IntRange(0), default=0, show_default=True)
@click.option("--force", is_flag=True, help="Overwrite the file.")
def features(
    checkpoint: Path,
    folder: Path,
    out: Path,
    output: str,
    dtype: str | None,
    batch_size: int,
    workers: int,
    force: bool,
) -> None:
    """Write a trained encoder's features of all images below FOLDER, labelled or not.

    CHECKPOINT is a file of a training run, or of xtra convert --to encoder; it tells architecture,
    image size, mask and normalisation. Each image is scaled, cropped at the centre and read once,
    in the order of the paths; those that cannot be read are listed and left out. Labels are the
    sub-folders, also below train/ and val/.

    .safetensors holds features (images, width) in float32; paths, the names below FOLDER as bytes,
    one a line; labels, where there are any; its metadata has the names of the classes. .npy holds
    the features, and a .csv beside it paths and classes. .parquet holds a row for each image: path,
    class, features. With scikit-learn:

    \b
    data = safetensors.numpy.load_file("features.safetensors")
    probe = LogisticRegression(max_iter=1000).fit(data["features"], data["labels"])
    print(probe.score(data["features"], data["labels"]))
    """
    check_out(out, force)
    with quiet_imports():
        import torch

        from xtra_toolkit.data.datasets.listing import list_images
        from xtra_toolkit.evaluation.features import Images, extract
        from xtra_toolkit.evaluation.inference import inference
        from xtra_toolkit.weights.encoder import load

    listing = list_images(folder)
    encoder, transform = load(checkpoint, output)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    encoder.to(device)
    dtype = dtype or ("bfloat16" if device == "cuda" else "float32")

    def run(images: torch.Tensor) -> torch.Tensor:
        with inference(encoder, dtype, (device,)):
            return encoder(images.to(device)).float().cpu()

    images = Images(listing.paths, transform)
    found, read, bad = extract(run, images, batch_size, workers, lambda b: watched(b, "features"))
    rows = dict(
        features=torch.cat(found).numpy(),
        paths=[str(listing.paths[i].relative_to(folder.expanduser())) for i in read],
        labels=None if listing.labels is None else listing.labels[read],
        classes=listing.classes,
    )
    with replacing(out) as file:
        WRITERS[out.suffix](
            Path(file.name), out, rows, dict(checkpoint=str(checkpoint), dtype=dtype)
        )
    for sentence in bad:
        click.echo(f"left out: {sentence}", err=True)
    said = f"{len(listing.classes)} classes" if listing.classes else "no labels"
    click.echo(
        f"{out}: {len(read)} images, {said}, {encoder.width} values each, read in {dtype}"
        + (f"; {len(bad)} images could not be read" if bad else "")
    )


def check_out(out: Path, force: bool) -> None:
    """Refuse a file that cannot or must not be written."""
    if out.suffix not in ENDINGS:
        raise click.UsageError(f"{out}: name a file that ends in {', '.join(ENDINGS)}")
    if out.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise click.UsageError(
            f"{out}: parquet needs pyarrow: pip install 'xtra_toolkit[parquet]', or name a "
            ".safetensors or .npy"
        )
    if out.exists() and not force:
        raise click.UsageError(f"{out} exists; name another file, or overwrite it with --force")
    if not out.absolute().parent.is_dir():
        raise click.UsageError(f"{out}: there is no folder {out.absolute().parent}")


def _safetensors(part: Path, out: Path, rows: dict[str, Any], meta: dict[str, str]) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    lines = "\n".join(rows["paths"]).encode()
    tensors = dict(features=rows["features"], paths=np.frombuffer(lines, np.uint8))
    if rows["labels"] is not None:
        tensors["labels"] = rows["labels"]
    save_file(tensors, part, dict(meta, classes=json.dumps(rows["classes"])))


def _npy(part: Path, out: Path, rows: dict[str, Any], meta: dict[str, str]) -> None:
    import csv

    import numpy as np

    with open(part, "wb") as file:
        np.save(file, rows["features"])
    with (
        replacing(out.with_suffix(".csv")) as file,
        open(file.name, "w", newline="") as lines,
    ):
        writer = csv.writer(lines)
        writer.writerow(["path", "class"])
        writer.writerows(zip(rows["paths"], _names(rows), strict=True))


def _parquet(part: Path, out: Path, rows: dict[str, Any], meta: dict[str, str]) -> None:
    import pyarrow
    from pyarrow import parquet

    columns = {"path": rows["paths"], "class": _names(rows), "features": list(rows["features"])}
    parquet.write_table(pyarrow.table(columns).replace_schema_metadata(meta), part)


def _names(rows: dict[str, Any]) -> list[str]:
    if rows["labels"] is None:
        return [""] * len(rows["paths"])
    return [rows["classes"][label] for label in rows["labels"]]


WRITERS = {".safetensors": _safetensors, ".npy": _npy, ".parquet": _parquet}
