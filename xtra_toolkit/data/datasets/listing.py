"""List the images of a folder, with labels and split from its sub-folders."""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from xtra_toolkit.data.datasets.image_folder import EXTENSIONS

TRAIN, TESTS = "train", ("val", "test", "valid", "validation")


class Listing(NamedTuple):
    """Hold the images of a folder, in the order of their paths.

    Args:
        paths: Paths of the files.
        labels: (N,) index into ``classes`` of each image; None if the folder has no labels.
        classes: Names of the classes, in alphabetical order.
        train: (N,) bool, whether each image is in the training split; None without a split.
    """

    paths: list[Path]
    labels: np.ndarray | None
    classes: list[str]
    train: np.ndarray | None


def list_images(folder: str | Path, need_labels: bool = False) -> Listing:
    """List the images below a folder, at any depth.

    The sub-folders are the classes. If they are ``train`` and ``val`` (or ``test``), they are the
    split, and their sub-folders are the classes. If any image lies in no sub-folder, there are no
    labels at all.

    Args:
        folder: The folder. ``~`` is the home folder.
        need_labels: Whether to refuse a folder without labels.

    Raises:
        ValueError: There is no such folder, it holds no image, it has no labels where they are
            needed, or its splits have other classes.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise ValueError(f"there is no folder {str(folder)!r}; name the folder of your images")
    found = (
        Path(place, name) for place, _, files in os.walk(root, followlinks=True) for name in files
    )
    paths = sorted(path for path in found if path.name.lower().endswith(EXTENSIONS))
    if not paths:
        raise ValueError(
            f"no images in {str(folder)!r}; files ending in {', '.join(sorted(EXTENSIONS))} are "
            "looked for, at any depth"
        )
    parts = [path.relative_to(root).parts for path in paths]
    train, kept = _split(parts)
    paths, parts = [paths[i] for i in kept], [parts[i] for i in kept]
    depth = 0 if train is None else 1
    names = [part[depth] if len(part) > depth + 1 else None for part in parts]
    if None in names:
        if need_labels:
            stray = paths[names.index(None)]
            raise ValueError(
                f"{str(folder)!r} has no labels: {stray.name!r} lies in no sub-folder; put the "
                "images of each class into a sub-folder of its name, with or without train/ and "
                "val/ above them"
            )
        return Listing(paths, None, [], train)
    classes = sorted(set(names))
    labels = np.array([classes.index(name) for name in names])
    if need_labels:
        _check_classes(folder, classes, labels, train)
    return Listing(paths, labels, classes, train)


def _split(parts: list[tuple[str, ...]]) -> tuple[np.ndarray | None, list[int]]:
    """Return whether each image is for training, and the indices of the images in the split."""
    tops = {part[0] for part in parts if len(part) > 1}
    tests = [name for name in TESTS if name in tops]
    if TRAIN not in tops or not tests:
        return None, list(range(len(parts)))
    kept = [i for i, part in enumerate(parts) if len(part) > 1 and part[0] in (TRAIN, tests[0])]
    return np.array([parts[i][0] == TRAIN for i in kept]), kept


def _check_classes(
    folder: str | Path, classes: list[str], labels: np.ndarray, train: np.ndarray | None
) -> None:
    if len(classes) < 2:
        raise ValueError(
            f"{str(folder)!r} has one class, {classes[0]!r}; a probe needs two sub-folders at least"
        )
    known = set(labels if train is None else labels[train])
    odd = [classes[label] for label in sorted(set(labels) - known)]
    if odd:
        raise ValueError(
            f"{str(folder)!r} tests the class {odd[0]!r}, of which train/ has no image; both "
            "splits need the same sub-folders"
        )


def stratified(labels: np.ndarray, share: float = 0.2) -> np.ndarray:
    """Draw a fixed split: True for training images, the same share of each class.

    A class of two images or more has at least one in each part. The draw depends on the number of
    images of each class only.

    Raises:
        ValueError: No class has two images.
    """
    train = np.ones(len(labels), dtype=bool)
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        count = min(max(round(share * len(own)), 1), len(own) - 1)
        train[np.random.default_rng(0).permutation(own)[:count]] = False
    if train.all():
        raise ValueError("every class has a single image; a probe needs two of a class at least")
    return train
