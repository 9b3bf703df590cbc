"""``xtra probe``: how well a trained encoder's features tell the classes of a folder apart."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xtra_toolkit.utils.progress import progress, watched
from xtra_toolkit.utils.quiet_imports import quiet_imports

if TYPE_CHECKING:
    from xtra_toolkit.data.datasets.listing import Listing
    from xtra_toolkit.evaluation.probing import Result

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
SHARE = 0.5  # of the free memory that the attentive probe's tokens may take


@click.command()
@click.argument("checkpoint", type=FILE)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--epochs",
    type=click.IntRange(1),
    help="Default: about 200 steps of 256 images, at least 10 epochs and at most 100.",
)
@click.option(
    "--rate",
    "rates",
    multiple=True,
    type=click.FloatRange(0, min_open=True),
    help="A learning rate to try; may be given several times. Default: seven, 1e-4 to 1e-1.",
)
@click.option("--k", type=click.IntRange(1), default=20, show_default=True, help="Of kNN.")
@click.option(
    "--fine-tune",
    is_flag=True,
    help="Also train the whole encoder with the labels: 20 epochs or those of --epochs.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Work folder of --fine-tune. Default: one in work_dirs, by the names of both arguments.",
)
@click.option("--batch-size", type=click.IntRange(1), default=64, show_default=True)
@click.option("--workers", type=click.IntRange(0), default=0, show_default=True)
def probe(
    checkpoint: Path,
    folder: Path,
    epochs: int | None,
    rates: tuple[float, ...],
    k: int,
    fine_tune: bool,
    out: Path | None,
    batch_size: int,
    workers: int,
) -> None:
    """Probe a trained encoder on the labelled images of FOLDER, a sub-folder for each class.

    CHECKPOINT is a file of a training run, or of xtra convert --to encoder. FOLDER may have its own
    split, train/ and val/ (or test/), with the classes below; otherwise a fifth of each class
    tests, the same images in each call.

    The encoder runs once over each image, scaled and cropped at the centre. Three probes read its
    features: a linear one, an attentive one, and the k nearest neighbours. The first two are
    trained at all learning rates at once, and the best rate is chosen on the test images, as in the
    papers. There is no augmentation: to compare with published figures use the configs in
    mmconfigs/benchmarks.

    --fine-tune trains a copy of the encoder and a linear head by MMPretrain's classifier, with the
    crops of pretraining, AdamW at a rate of 1e-3, and the encoder's mask. The work folder keeps
    its config, log and checkpoint.
    """
    with quiet_imports():
        import torch
        from mmengine.logging import MMLogger

        from xtra_toolkit.data.datasets.listing import list_images, stratified
        from xtra_toolkit.evaluation import probing
        from xtra_toolkit.weights.encoder import load

    MMLogger.get_instance("xtra probe", log_level="WARNING")
    listing = list_images(folder, need_labels=True)
    encoder, transform = load(checkpoint)
    grid, width = encoder.vit.grid, encoder.width
    tokens = fits(len(listing.paths) * grid.tokens * width * 2)
    if not tokens:
        click.echo(
            f"the attentive probe is left out: the tokens of {len(listing.paths)} images do not "
            "fit the memory; mmconfigs/benchmarks/attentive computes them anew",
            err=True,
        )
    read = probing.Readout(encoder.vit, tokens)
    found, kept = features_of(read, transform, listing, batch_size, workers)
    labels = torch.from_numpy(listing.labels[kept])
    split = stratified(listing.labels[kept]) if listing.train is None else listing.train[kept]
    train = torch.from_numpy(split)
    click.echo(
        f"{int(train.sum())} images train and {int((~train).sum())} test, "
        f"{len(listing.classes)} classes, "
        + ("a fifth of each class tests" if listing.train is None else "the folder's own split")
    )
    rates = rates or probing.RATES
    heads = next(h for h in (16, 8, 4, 2, 1) if width % h == 0)
    with progress("probes"):
        results = [
            probing.sweep(name, found[name], labels, train, epochs, rates, heads)
            for name in ("linear", "attentive")
            if name in found
        ]
        results.append(probing.knn(found["knn"], labels, train, k))
    for line in table(results, probing.majority(labels, train)):
        click.echo(line)
    if fine_tune:
        chosen = listing._replace(
            paths=[listing.paths[i] for i in kept], labels=listing.labels[kept]
        )
        out = out or Path("work_dirs", f"fine-tune_{checkpoint.stem}_{folder.resolve().name}")
        click.echo(fine_tuned(checkpoint, folder, chosen, split, out, epochs, workers))


def fine_tuned(
    checkpoint: Path,
    folder: Path,
    listing: "Listing",
    train: Any,
    out: Path,
    epochs: int | None,
    workers: int,
) -> str:
    """Fine-tune the encoder, and return the line with its accuracy."""
    with quiet_imports():
        from xtra_toolkit.evaluation.probe_sweep import label
        from xtra_toolkit.training import fine_tuning

    config = fine_tuning.config_of(checkpoint, folder, listing, train, out, epochs, workers)
    epochs = config.train_cfg.max_epochs
    click.echo(f"fine-tuning the encoder for {epochs} epochs in {out}")
    accuracy = fine_tuning.fine_tune(config, out)
    return f"{'fine-tuned':<11} {label(config.optim_wrapper.optimizer.lr):>13}  {accuracy:5.1f} %"


def features_of(
    read: Any, transform: Any, listing: "Listing", batch_size: int, workers: int
) -> tuple[dict[str, Any], list[int]]:
    """Return what the probes read of each image, on the CPU, and the numbers of the images."""
    import torch

    from xtra_toolkit.evaluation.features import Images, extract
    from xtra_toolkit.evaluation.inference import inference

    device = "cuda" if torch.cuda.is_available() else "cpu"
    read.to(device).eval()

    def run(images: Any) -> dict[str, Any]:
        with inference(read):
            return {name: value.cpu() for name, value in read(images.to(device)).items()}

    images = Images(listing.paths, transform)
    batches, kept, bad = extract(run, images, batch_size, workers, lambda b: watched(b, "features"))
    for sentence in bad:
        click.echo(f"left out: {sentence}", err=True)
    # a clone made outside of inference mode may be trained on
    found = {name: torch.cat([batch[name] for batch in batches]).clone() for name in batches[0]}
    return found, kept


def fits(size: int) -> bool:
    """Return whether the memory has room for so many bytes."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(li.split()[1]) << 10 for li in lines if li.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return True
    return size < SHARE * free


def table(results: list["Result"], majority: float) -> list[str]:
    """Return the accuracies, a row for each probe and learning rate, and what to know of them."""
    from xtra_toolkit.evaluation.probe_sweep import label

    lines = ["", "probe       learning rate   top-1"]
    for result in results:
        for rate, accuracy in result.accuracies.items():
            mark = "  best" if rate is not None and rate == result.best[0] else ""
            name = "" if rate is None else label(rate)
            lines.append(f"{result.name:<11} {name:>13}  {accuracy:5.1f} %{mark}")
    lines += [f"{'majority':<11} {'':>13}  {majority:5.1f} %", ""]
    lines += [
        f"warning: the best rate of the {r.name} probe, {label(r.best[0])}, is the edge of the "
        "sweep; a better one may lie beyond it (--rate)"
        for r in results
        if r.at_edge
    ]
    return lines
