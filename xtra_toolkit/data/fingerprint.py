"""What decides which image stands where in a data set: a resumed run must find the same."""

import hashlib
import os
from collections.abc import Iterator
from typing import Any

from mmengine.dataset import BaseDataset

from xtra_toolkit.data.datasets.image_folder import ImageFolder
from xtra_toolkit.data.datasets.mmap_lines import BLOCK


def fingerprint(dataset: Any) -> str:
    """Return the number of images, and a digest of their names in their order.

    The names count from ``data_root``, so that the folder may lie elsewhere. A list that is mapped
    into memory is read as it is (0.4 GB/s); another data set is asked for each name (2 µs each).
    Where images have no names, the number alone is compared.
    """
    digest, named = hashlib.sha1(), False
    for part in _parts(dataset):
        digest.update(part)
        named = True
    return f"{len(dataset):,} images" + (
        f" with the digest {digest.hexdigest()[:16]}" if named else ""
    )


def refuse_other_order(saved: dict | None, here: dict) -> None:
    """Compare what the checkpoint says of the data with what is here.

    Args:
        saved: ``images`` (a fingerprint) and ``global_batch``; None in older checkpoints.
        here: the same, of this run.

    Raises:
        ValueError: they differ, so that the rest of the epochs would have other images.
    """
    if saved in (None, here):
        return
    raise ValueError(
        f"The checkpoint was trained on {saved['images']} (names in their order) in global batches "
        f"of {saved['global_batch']}, and here are {here['images']} in global batches of "
        f"{here['global_batch']}: the steps would see other images than an unbroken run. Resume "
        "with the images and train_cfg.global_batch of the checkpoint, or start anew from its "
        "weights (load_from, resume=False)."
    )


def _parts(dataset: Any) -> Iterator[bytes]:
    if isinstance(dataset, ImageFolder) and dataset.ann_file:
        listed = dataset.data_bytes
        yield from (listed[at : at + BLOCK].tobytes() for at in range(0, len(listed), BLOCK))
    elif isinstance(dataset, BaseDataset):
        root = str(dataset.data_root or "")
        for index in range(len(dataset)):
            # as it is stored; a class of its own may read the image here
            name = BaseDataset.get_data_info(dataset, index).get("img_path")
            if not isinstance(name, str):
                return
            yield os.fsencode(name.removeprefix(root).lstrip("/") + "\n")
