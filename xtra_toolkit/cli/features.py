"""``xtra features``: a frozen encoder's features of a data set, each image's once."""

import warnings
from pathlib import Path

import click

from xtra_toolkit.atomic import replacing
from xtra_toolkit.progress import watched

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.argument("config", type=FILE)
@click.argument("checkpoint", type=FILE)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--out",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="The file to write: .safetensors.",
)
@click.option(
    "--dtype",
    type=click.Choice(["bfloat16", "float32"]),
    help="In which the encoder runs. Default: bfloat16 on a GPU, float32 on a CPU.",
)
@click.option("--batch-size", type=click.IntRange(1), help="Default: the config's.")
@click.option("--force", is_flag=True, help="Overwrite the file.")
def features(
    config: Path,
    checkpoint: Path,
    overrides: tuple[str, ...],
    out: Path,
    dtype: str | None,
    batch_size: int | None,
    force: bool,
) -> None:
    """Write what a frozen encoder makes of a data set, to probe without running it again.

    CONFIG is a kNN config, mmconfigs/benchmarks/knn/imagenet.py, KEY=VALUE changes it as
    --cfg-options of mim test, and CHECKPOINT is what it evaluates. The encoder runs once over each
    image of the bank and of the test images, in the order of the data set. A feature is the mean of
    the patch tokens of the last layer, or the class token where backbone.out_type='cls_token': as
    kNN compares it, but not yet of unit length.

    The file holds, of bank and test, NAME.features (images, width) in float32, NAME.labels and,
    where images are files, NAME.paths, their names as bytes, one a line. With scikit-learn:

    \b
    data = safetensors.numpy.load_file("features.safetensors")
    probe = LogisticRegression(max_iter=1000).fit(data["bank.features"], data["bank.labels"])
    print(probe.score(data["test.features"], data["test.labels"]))

    CONFIG is code: it is executed, and so must come from somebody you trust. Nothing in CHECKPOINT
    is executed.
    """
    if out.suffix != ".safetensors":
        raise click.UsageError(f"{out}: name a file that ends in .safetensors")
    if out.exists() and not force:
        raise click.UsageError(f"{out} exists; name another file, or overwrite it with --force")
    if not out.absolute().parent.is_dir():
        raise click.UsageError(f"{out}: there is no folder {out.absolute().parent}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of OpenMMLab's imports
        import torch
        from safetensors.torch import save_file

        from xtra_toolkit.engine.features import extract, load_encoder, loaders
        from xtra_toolkit.show.build import open_config

        cfg = open_config(config, overrides)
        model, images = load_encoder(cfg, checkpoint), loaders(cfg, batch_size)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device)
    dtype = dtype or ("bfloat16" if device == "cuda" else "float32")
    parts = {
        name: extract(model, loader, dtype, (device,), lambda batches, n=name: watched(batches, n))
        for name, loader in images.items()
    }
    meta = dict(config=str(config), checkpoint=str(checkpoint), dtype=dtype)
    tensors = {
        f"{name}.{key}": value for name, part in parts.items() for key, value in part.items()
    }
    with replacing(out) as file:
        save_file(tensors, file.name, meta)
    sizes = ", ".join(f"{len(part['labels'])} {name} images" for name, part in parts.items())
    width = parts["bank"]["features"].shape[1]
    click.echo(f"{out}: {sizes}, {width} values each, read in {dtype}")
