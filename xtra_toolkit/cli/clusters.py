"""``xtra clusters``: make the colour clusters that iGPT predicts."""

from pathlib import Path

import click

from xtra_toolkit.utils.atomic import replacing
from xtra_toolkit.utils.progress import progress, watched


@click.command()
@click.argument("images", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("target", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--number", type=click.IntRange(min=2), default=512, show_default=True)
@click.option(
    "--size",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    help="Size of the images in pixels.",
)
@click.option(
    "--pixels",
    type=click.IntRange(min=1),
    default=2_000_000,
    show_default=True,
    help="Number of pixels to cluster, taken from whole images, at least one.",
)
@click.option("--seed", type=int, default=0, show_default=True)
def clusters(images: Path, target: Path, number: int, size: int, pixels: int, seed: int) -> None:
    """Cluster the colours of a folder of images, for NextColour.

    IMAGES is a folder, searched at any depth. The shorter side of its images is resized to SIZE px,
    and the centre is cropped. scikit-learn's MiniBatchKMeans clusters PIXELS of their pixels into
    NUMBER colours. TARGET is a .npy file of shape (NUMBER, 3), RGB from -1 to 1, as iGPT's own.
    """
    if target.suffix != ".npy":
        raise click.UsageError(f"{target}: name a file that ends in .npy")
    if target.exists():
        raise click.UsageError(f"{target} exists; name another file")
    import numpy as np

    target.parent.mkdir(parents=True, exist_ok=True)
    colours = sample(images, size, pixels, seed)
    if len(np.unique(colours, axis=0)) < number:
        raise click.UsageError(
            f"{images} has fewer than {number} different colours at {size} px; choose a smaller "
            "--number"
        )
    table, error = kmeans(colours / 127.5 - 1, number, seed)
    with replacing(target) as file:
        np.save(file, table)
    click.echo(
        f"{target}: {number} colours of {len(colours)} pixels; a pixel is {127.5 * error:.1f} of "
        "255 from its colour (root mean square over the channels)"
    )


def sample(images: Path, size: int, pixels: int, seed: int):  # noqa: ANN201, NumPy loads late
    """Return pixels of randomly chosen whole images, (at most ``pixels``, 3), uint8 RGB."""
    import numpy as np
    from mmpretrain.datasets.transforms import CenterCrop, ResizeEdge

    from xtra_toolkit.data import ImageFolder, LoadImage

    shrink = ResizeEdge(scale=size, backend="pillow", interpolation="bicubic")
    steps = [LoadImage(), shrink, CenterCrop(crop_size=size)]
    data = ImageFolder(str(images), pipeline=steps)
    num_images = max(1, pixels // size**2)
    chosen = np.random.default_rng(seed).permutation(len(data))[:num_images]
    return np.concatenate(
        [data[int(i)]["img"][..., ::-1].reshape(-1, 3) for i in watched(chosen, "images")]
    )


def kmeans(colours, number: int, seed: int):  # noqa: ANN001, ANN201
    """Return the clusters, (number, 3) float32, and the root mean square distance to them."""
    try:
        from sklearn.cluster import MiniBatchKMeans
    except ImportError as error:
        raise click.UsageError(
            "xtra clusters needs scikit-learn: pip install xtra_toolkit[demo]"
        ) from error
    with progress(f"k-means, {number} colours"):  # scikit-learn reports no progress
        found = MiniBatchKMeans(number, batch_size=4096, n_init=3, random_state=seed).fit(colours)
    return found.cluster_centers_.astype("float32"), (found.inertia_ / colours.size) ** 0.5
