"""Compute features of a frozen encoder, for kNN, ``xtra features`` and ``xtra probe``.

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
    """Return pooled features of a batch, (B, D) float32 inference tensors, and its data samples."""
    model = unwrap_model(model)
    data = model.data_preprocessor(data_batch, False)
    with inference(model, dtype, devices):
        return pooled_feature(model, data["inputs"]), data["data_samples"]


def label_of(sample: Any) -> Tensor:
    """Return the label of an image, (1,); raise a ValueError if it has none or several."""
    label = sample.get("gt_label")
    if label is None or len(label) != 1:
        raise ValueError(
            f"The image {sample.get('img_path', '')!r} must have one label for kNN or a probe, not "
            f"{label}: take a labelled data set (ImageFolder: with_label=True)."
        )
    return label


class Images(Dataset):
    """A data set of image files. An item is (index, image or None, error message or '')."""

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
        encoder: Function from a batch (B, C, height, width) to its features.
        images: The image files.
        batch_size: Images of a batch.
        workers: Number of processes that read images.
        watch: Wrapper of the loader that may show the progress.

    Returns:
        The encoder's output for each batch, the indices of the images that were read, and an error
        message for each of the others.

    Raises:
        ValueError: If no image can be read.
    """
    loader = DataLoader(images, batch_size, num_workers=workers, collate_fn=list)
    outputs, indices, errors = [], [], []
    for batch in watch(loader):
        good = [(index, image) for index, image, _ in batch if image is not None]
        errors += [error for _, image, error in batch if image is None]
        if good:
            indices += [index for index, _ in good]
            outputs.append(encoder(torch.stack([image for _, image in good])))
    if not indices:
        raise ValueError(f"none of the {len(images)} images can be read; the first: {errors[0]}")
    return outputs, indices, errors
