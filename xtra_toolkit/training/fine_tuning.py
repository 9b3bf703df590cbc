"""Fine-tune a trained encoder on a labelled folder, for ``xtra probe --fine-tune``.

The config is that of ``xtra compare``'s fine-tuning, and MMPretrain's classifier runs it in a
process of its own, as ``xtra train`` runs pretraining.
"""

import json
from pathlib import Path

import numpy as np
from mmengine.config import Config

from xtra_toolkit.comparison.finetuning import classifier_config
from xtra_toolkit.data.datasets.listing import Listing
from xtra_toolkit.models.encoder_record import encoder_options
from xtra_toolkit.models.hub import configs
from xtra_toolkit.training.console import FLAG
from xtra_toolkit.training.recipe import STEPS_AN_EPOCH
from xtra_toolkit.training.start import PROGRESS, Run, train
from xtra_toolkit.utils.config_text import flatten
from xtra_toolkit.weights.encoder import read_record
from xtra_toolkit.weights.image_transform import CROP

EPOCHS, RATE, BATCH = 20, 1e-3, 64


def fine_tune(config: Config, out: Path) -> float:
    """Run the config of :func:`config_of`, or what is left of it; return the accuracy in per cent.

    Raises:
        ValueError: ``out`` holds another run, or the run failed.
    """
    file = out / "fine_tune.py"
    if file.exists():
        former = flatten(Config.fromfile(file).to_dict())  # MMEngine wrote it again, and added keys
        if any(former.get(key) != value for key, value in flatten(config.to_dict()).items()):
            raise ValueError(
                f"{out} holds a fine-tuning of another checkpoint, other images or other options; "
                "name another folder with --out"
            )
    config.dump(file)
    arguments = [str(file), "--work-dir", str(out), FLAG]
    run = Run(config, file, 0, [], None, arguments)
    train(run, "the same command goes on from")
    files = sorted(out.glob("*/vis_data/scalars.json"))
    lines = (line for file in files for line in file.read_text().splitlines())
    found = [json.loads(line).get("accuracy/top1") for line in lines]
    return [accuracy for accuracy in found if accuracy is not None][-1]


def config_of(
    checkpoint: Path,
    folder: Path,
    listing: Listing,
    train_split: np.ndarray,
    out: Path,
    epochs: int | None = None,
    workers: int = 0,
) -> Config:
    """Return a config that fine-tunes the encoder of a checkpoint, and write its lists of images.

    Args:
        checkpoint: A file of a training run; sizes, mask and normalisation are read from it.
        folder: The folder of the images.
        listing: The images that can be read, with labels.
        train_split: (N,) bool, the training images; the others are the test images.
        out: The work folder, which is made. It receives ``train.txt``, ``test.txt`` and
            ``classes.txt``.
        epochs: Number of epochs. Default: :data:`EPOCHS`.
        workers: Number of processes that read images.
    """
    out.mkdir(parents=True, exist_ok=True)
    root = folder.expanduser().resolve()
    for name, chosen in (("train", train_split), ("test", ~train_split)):
        rows = [(listing.paths[i], listing.labels[i]) for i in np.flatnonzero(chosen)]
        lines = [f"{path.resolve().relative_to(root)} {label}\n" for path, label in rows]
        (out / f"{name}.txt").write_text("".join(lines))
    (out / "classes.txt").write_text("\n".join(listing.classes) + "\n")
    state, record = read_record(checkpoint)
    images, options = record["images"], encoder_options(record, state)
    pipelines = _pipelines(record["encoder"]["img_size"], images["order"] == "gray")
    normalise = {key: images[key] for key in ("mean", "std")}
    pretraining = Config.fromfile(configs() / "_base_" / "runtime.py")
    pretraining.model = dict(
        mask=record["mask"],
        backbone=dict(type="xtra_toolkit.MaskedViT", **options),
        data_preprocessor=normalise,
    )
    pretraining.train_dataloader = dict(dataset=dict(pipeline=pipelines["train"]))
    count = int(train_split.sum())
    config = classifier_config(
        pretraining,
        packed=out,
        images=range(count),
        epochs=epochs or EPOCHS,
        checkpoint=checkpoint.resolve(),
        rate=RATE,
        batch=min(BATCH, max(count // STEPS_AN_EPOCH, 1)),
    )
    config.model.type = "xtra_toolkit.ImageClassifier"
    config.model.data_preprocessor.to_rgb = images["order"] == "RGB"
    for name, loader in (("train", config.train_dataloader), ("test", config.val_dataloader)):
        loader.update(num_workers=workers, persistent_workers=workers > 0)
        loader.batch_size = min(loader.batch_size, BATCH)
        loader.dataset = dict(
            type="xtra_toolkit.ImageFolder",
            data_root=str(root),
            ann_file=str((out / f"{name}.txt").resolve()),
            with_label=True,
            pipeline=pipelines[name],
        )
    config.custom_hooks = [*config.custom_hooks, PROGRESS]
    config.work_dir = str(out)
    return config


def _pipelines(size: list[int], gray: bool) -> dict[str, list[dict]]:
    """Return the augmentation of pretraining, and the crop of ``xtra_toolkit.load``.

    Args:
        size: Height and width of the encoder's images.
        gray: Whether they have one channel.
    """
    height, width = size
    base = Config.fromfile(configs() / "_base_" / "images_256.py")
    read, crop, *rest = base.train_dataloader.dataset.pipeline
    load = dict(type="xtra_toolkit.LoadImage", color_type="grayscale" if gray else "color")
    scale = round(max(size) / CROP)
    resize = dict(scale=scale, edge="short", backend="pillow", interpolation="bicubic")
    return dict(
        train=[load if gray else read, dict(crop, scale=(height, width)), *rest],
        test=[
            load,
            dict(type="mmpretrain.ResizeEdge", **resize),
            dict(type="mmpretrain.CenterCrop", crop_size=(width, height)),
            dict(type="xtra_toolkit.PackInputs"),
        ],
    )
