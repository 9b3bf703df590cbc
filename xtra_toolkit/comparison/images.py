"""Pack labelled images at one size, so that all runs of a comparison read the same images.

Shape legend: C channels, H height, W width, S pixels along each side of a packed image.
"""

import gzip
import json
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from xtra_toolkit.data.datasets.packed_images import write_packed
from xtra_toolkit.data.image_reading.pillow import decode
from xtra_toolkit.utils.progress import watched

SPLITS = dict(train=("train",), test=("test", "val", "validation"))
IDX_PREFIXES = dict(train="train", test="t10k")
ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".webp", ".tif", ".tiff")
ReadImage = Callable[[int], np.ndarray]  # from the index of an image to its pixels (H, W, C)


def pack(
    data: str,
    out: Path,
    size: int,
    channels: int = 3,
    limits: dict[str, int] | None = None,
    held_out: int = 0,
) -> Path:
    """Pack a labelled data set once, in an order that a fixed seed shuffles.

    Images are scaled until their shorter side has ``size`` pixels, and cropped at the centre.

    Args:
        data: A folder with train/CLASS and test/CLASS (or val/CLASS), a folder with the four idx
            files of Fashion-MNIST or MNIST, or ``'cifar10'``, which is downloaded.
        out: Folder that receives a sub-folder for each size.
        size: S.
        channels: 3 for RGB, 1 for grey.
        limits: Greatest number of packed images by split. Splits that are not named are packed
            whole.
        held_out: Number of training images that are packed as the test images in place of those of
            the data set, which need not exist then, and not as training images. 0: none.

    Returns:
        The folder that :class:`xtra_toolkit.PackedImages` reads. Its file ``packed.json`` holds the
        number of images that each split had.

    Raises:
        ValueError: ``data`` is none of the three, a split has no images, the splits have different
            classes, a file cannot be read, or no training images are left.
    """
    limits = limits or {}
    parts = [f"{size}px", f"{channels}ch", *(f"{s}{n}" for s, n in sorted(limits.items()))]
    parts += [f"heldout{held_out}"] if held_out else []
    folder = out / "_".join(parts)
    if (folder / "packed.json").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    splits = {"train": _open_split(data, "train", out)}
    splits["test"] = splits["train"] if held_out else _open_split(data, "test", out)
    train_classes, test_classes = (splits[split][2] for split in ("train", "test"))
    if train_classes != test_classes:
        odd = sorted(set(train_classes) ^ set(test_classes))[:3]
        raise ValueError(
            f"The training images of {data} have {len(train_classes)} classes and its test images "
            f"{len(test_classes)}; only one of them has {', '.join(odd)}. Both need the same "
            "classes."
        )
    orders = {
        split: np.random.default_rng(0).permutation(len(labels))
        for split, (_, labels, _) in splits.items()
    }
    if held_out:
        if held_out >= len(orders["train"]):
            raise ValueError(
                f"{held_out:,} training images were to be held out, and {data} has "
                f"{len(orders['train']):,}. Hold out fewer, for instance a tenth."
            )
        orders = dict(train=orders["train"][:-held_out], test=orders["train"][-held_out:])
    for split, (read, labels, classes) in splits.items():
        order = orders[split][: limits.get(split)]
        images = (fit(read(int(i)), size, channels) for i in watched(order, f"packing {split}"))
        write_packed(folder, split, images, labels[order], classes)
    counts = {split: len(order) for split, order in orders.items()}
    (folder / "packed.json").write_text(json.dumps(dict(data=name_of(data), images=counts)))
    return folder


def name_of(data: str) -> str:
    """Return the name of a data set for a report: the name of its folder, without the path."""
    return Path(data).resolve().name if Path(data).exists() else data


def fit(image: np.ndarray, size: int, channels: int) -> np.ndarray:
    """Scale and crop an image, (H, W, 1 or 3), to (S, S, C)."""
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    picture = picture.convert("L" if channels == 1 else "RGB")
    width, height = picture.size
    scale = size / min(width, height)
    if scale != 1:
        sides = [max(round(side * scale), size) for side in (width, height)]
        picture = picture.resize(sides, Image.Resampling.BICUBIC)
    left, top = ((side - size) // 2 for side in picture.size)
    picture = picture.crop((left, top, left + size, top + size))
    return np.asarray(picture).reshape(size, size, channels)


def _open_split(data: str, split: str, out: Path) -> tuple[ReadImage, np.ndarray, list[str]]:
    """Return a reader of the images of a split, their labels and the names of the classes."""
    if data == "cifar10" and not Path(data).is_dir():
        return _open_cifar10(split, out)
    folder = Path(data).expanduser()
    if any(path.exists() for path in _idx_paths(folder, split, "images-idx3")):
        return _open_idx(folder, split)
    for name in SPLITS[split]:
        if (folder / name).is_dir():
            return _open_folder(folder / name)
    raise ValueError(
        f"{data} was given as the data set. It must be a folder with train/CLASS and test/CLASS "
        "(or val/CLASS), a folder with the four idx files of Fashion-MNIST (compressed or not), or "
        f"cifar10, which is downloaded; no {split} images were found there."
    )


def _open_folder(root: Path) -> tuple[ReadImage, np.ndarray, list[str]]:
    """Open a folder whose sub-folders are the classes."""
    classes = sorted(path.name for path in root.iterdir() if path.is_dir())
    files = [
        (path, label)
        for label, name in enumerate(classes)
        for path in sorted((root / name).rglob("*"))
        if path.suffix.lower() in ENDINGS
    ]
    if not files:
        raise ValueError(f"No images were found in {root}; its sub-folders are the classes.")

    def read(index: int) -> np.ndarray:
        path = files[index][0]
        try:
            return np.ascontiguousarray(decode(path.read_bytes())[..., ::-1])
        except Exception as error:  # Pillow raises OSError, ValueError, SyntaxError, ...
            raise ValueError(f"{path} cannot be read: {error}. Repair or remove it.") from error

    return read, np.array([label for _, label in files]), classes


def _idx_paths(folder: Path, split: str, kind: str) -> list[Path]:
    """Return the paths that an idx file may have, the uncompressed one first."""
    return [folder / f"{IDX_PREFIXES[split]}-{kind}-ubyte{ending}" for ending in ("", ".gz")]


def _open_idx(folder: Path, split: str) -> tuple[ReadImage, np.ndarray, list[str]]:
    """Open the idx files of a split; images are padded from 28 to 32 pixels."""

    def content(kind: str) -> bytes:
        path, compressed = _idx_paths(folder, split, kind)
        try:
            return path.read_bytes() if path.exists() else gzip.decompress(compressed.read_bytes())
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path} cannot be read, compressed or not: {error}.") from error

    images = np.frombuffer(content("images-idx3"), np.uint8, offset=16).reshape(-1, 28, 28, 1)
    images = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)))
    labels = np.frombuffer(content("labels-idx1"), np.uint8, offset=8).astype(np.int64)
    return images.__getitem__, labels, [str(label) for label in range(labels.max() + 1)]


def _open_cifar10(split: str, out: Path) -> tuple[ReadImage, np.ndarray, list[str]]:
    """Download CIFAR-10, unless that is done, and open it."""
    from mmpretrain.datasets import CIFAR10

    root = out / "download"
    root.mkdir(parents=True, exist_ok=True)
    data = CIFAR10(data_root=str(root), split=split, download=True)
    labels = np.array(data.get_gt_labels())
    return lambda i: np.asarray(data.get_data_info(i)["img"]), labels, list(data.CLASSES)
