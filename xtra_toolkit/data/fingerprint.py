"""Identify the images of a data set and their order, which a resumed run must find again."""

import hashlib
import os
from collections.abc import Iterator
from typing import Any

from mmengine.dataset import BaseDataset

from xtra_toolkit.data.datasets.image_folder import ImageFolder
from xtra_toolkit.data.datasets.mmap_lines import BLOCK


def fingerprint(dataset: Any) -> str:
    """Return the number of images, and a digest of their names in order.

    Names are relative to ``data_root``, so that the folder may move. A list that is mapped into
    memory is read as a whole (0.4 GB/s); other data sets are asked for each name (2 µs each). If
    images have no names, only their number is compared.
    """
    digest, named = hashlib.sha1(), False
    for part in _parts(dataset):
        digest.update(part)
        named = True
    return f"{len(dataset):,} images" + (
        f" with the digest {digest.hexdigest()[:16]}" if named else ""
    )


def refuse_other_order(saved: dict | None, here: dict) -> None:
    """Compare the data of the checkpoint with those of this run.

    Args:
        saved: ``images`` (a fingerprint) and ``global_batch`` of the checkpoint; None in older
            ones.
        here: The same two values of this run.

    Raises:
        ValueError: They differ, so that the rest of the epochs would have other images.
    """
    if saved in (None, here):
        return
    raise ValueError(
        f"The checkpoint was trained on {saved['images']} (names in their order) in global batches "
        f"of {saved['global_batch']}, and here are {here['images']} in global batches of "
        f"{here['global_batch']}: the steps would see other images than an uninterrupted run. "
        "Resume with the images and train_cfg.global_batch of the checkpoint, or start a new "
        "run from its weights (load_from, resume=False)."
    )


def _parts(dataset: Any) -> Iterator[bytes]:
    if isinstance(dataset, ImageFolder) and dataset.ann_file:
        listed = dataset.data_bytes
        yield from (listed[at : at + BLOCK].tobytes() for at in range(0, len(listed), BLOCK))
    elif isinstance(dataset, BaseDataset):
        root = str(dataset.data_root or "")
        for index in range(len(dataset)):
            # the stored entry, since a subclass may read the image here
            name = BaseDataset.get_data_info(dataset, index).get("img_path")
            if not isinstance(name, str):
                return
            yield os.fsencode(name.removeprefix(root).lstrip("/") + "\n")
