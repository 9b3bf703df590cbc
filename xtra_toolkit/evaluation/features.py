"""Features of a frozen encoder, each image's once: for kNN, ``xtra features`` and ``xtra probe``.

Shape legend: N images of a data set, B of a batch, D width.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from xtra_toolkit.evaluation.inference import inference
from xtra_toolkit.evaluation.knn_vote import pooled_feature
from xtra_toolkit.utils.unwrap import unwrap_model


def read_batch(
    model: nn.Module, data_batch: dict, dtype: str, devices: Sequence[str]
) -> tuple[Tensor, list]:
    """Pooled features of a batch, (B, D) in float32, and its data samples, in inference mode."""
    model = unwrap_model(model)
    data = model.data_preprocessor(data_batch, False)
    with inference(model, dtype, devices):
        return pooled_feature(model, data["inputs"]), data["data_samples"]


def label_of(sample: Any) -> Tensor:
    """(1,), the label of an image; ValueError where it has none, or several."""
    label = sample.get("gt_label")
    if label is None or len(label) != 1:
        raise ValueError(
            f"The image {sample.get('img_path', '')!r} must have one label to vote or to be "
            f"probed with, not {label}: take a labelled data set (ImageFolder: with_label=True)."
        )
    return label


class Images(Dataset):
    """Image files as an encoder takes them, each with its number; None in place of a bad one."""

    def __init__(self, paths: Sequence[Path], transform: Callable[[Path], Tensor]):
        self.paths, self.transform = paths, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[int, Tensor | None, str]:
        try:
            return index, self.transform(self.paths[index]), ""
        except ValueError as error:
            return index, None, str(error)


def extract(
    encoder: Callable[[Tensor], Any],
    images: Images,
    batch_size: int = 64,
    workers: int = 0,
    watch: Callable[[DataLoader], Iterator] = iter,
) -> tuple[list[Any], list[int], list[str]]:
    """Run an encoder once over each image that can be read, in order.

    Args:
        encoder: from a batch (B, C, height, width) to what is kept of it.
        images: the files.
        batch_size, workers: of the loader.
        watch: passes the batches on, and may show how many have gone.

    Returns:
        What the encoder gave of each batch, the numbers of the images that were read, and a
        sentence on each that was not.

    Raises:
        ValueError: no image can be read.
    """
    loader = DataLoader(images, batch_size, num_workers=workers, collate_fn=list)
    found, read, bad = [], [], []
    for batch in watch(loader):
        good = [(index, image) for index, image, _ in batch if image is not None]
        bad += [error for _, image, error in batch if image is None]
        if good:
            read += [index for index, _ in good]
            found.append(encoder(torch.stack([image for _, image in good])))
    if not read:
        raise ValueError(f"none of the {len(images)} images can be read; the first: {bad[0]}")
    return found, read, bad
