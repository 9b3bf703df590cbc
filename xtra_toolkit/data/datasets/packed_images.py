"""Read and write a data set of small images in two NumPy files."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from mmpretrain.datasets import BaseDataset

from xtra_toolkit.data.seeding import SeededSamples
from xtra_toolkit.registry import DATASETS


@DATASETS.register_module()
class PackedImages(SeededSamples, BaseDataset):
    """Give images of one size in ``SPLIT_images.npy`` and their labels in ``SPLIT_labels.npy``.

    A sample has ``img``, uint8 of shape (H, W, C), and ``gt_label``. The images are mapped into
    memory, so no file is decoded in training and all processes share the same pages.

    Args:
        data_root: Folder that ``xtra compare`` wrote: the two files, and ``classes.txt`` with one
            class name a line.
        split: ``'train'`` or ``'test'``.
        **kwargs: Arguments of MMPretrain's ``BaseDataset``, among them ``pipeline``.

    Raises:
        ValueError: A file is missing, or images and labels are not equally many.
    """

    def __init__(self, data_root: str, split: str = "train", **kwargs: Any):
        root = Path(data_root)
        missing = [name for name in _names(split) if not (root / name).is_file()]
        if missing:
            raise ValueError(
                f"PackedImages found no {' and no '.join(missing)} in {root.absolute()}. Let "
                "xtra compare write them, or name the folder that it wrote with --cfg-options "
                "train_dataloader.dataset.data_root=/path"
            )
        images, labels, classes = (root / name for name in _names(split))
        self.images, self.labels = np.load(images, mmap_mode="r"), np.load(labels)
        if len(self.images) != len(self.labels):
            raise ValueError(
                f"{images} holds {len(self.images)} images and {labels} {len(self.labels)} "
                "labels; they must be equally many. Pack the folder again."
            )
        metainfo = dict(classes=tuple(classes.read_text().splitlines()))
        super().__init__(ann_file="", data_root=data_root, metainfo=metainfo, **kwargs)

    def load_data_list(self) -> list[dict]:
        """Return one dictionary for each image, with its place in the file and its label."""
        return [dict(place=i, gt_label=int(label)) for i, label in enumerate(self.labels)]

    def get_data_info(self, idx: int) -> dict:
        """Return the annotation of an image together with its pixels."""
        info = super().get_data_info(idx)
        return dict(info, img=np.array(self.images[info["place"]]))


def write_packed(
    root: Path, split: str, images: Iterable[np.ndarray], labels: np.ndarray, classes: list[str]
) -> None:
    """Write what :class:`PackedImages` reads, one image after the other.

    Args:
        root: An existing folder.
        split: ``'train'`` or ``'test'``.
        images: N images (H, W, C) uint8 of one size.
        labels: (N,) integers.
        classes: The names of the classes, in the order of their labels.
    """
    paths, packed = [root / name for name in _names(split)], None
    for place, image in enumerate(images):
        if packed is None:
            shape = (len(labels), *image.shape)
            packed = np.lib.format.open_memmap(paths[0], "w+", np.uint8, shape)
        packed[place] = image
    packed.flush()
    np.save(paths[1], labels.astype(np.int64))
    paths[2].write_text("".join(f"{name}\n" for name in classes))


def _names(split: str) -> tuple[str, str, str]:
    return f"{split}_images.npy", f"{split}_labels.npy", "classes.txt"
