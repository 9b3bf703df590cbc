"""Use data sets of other packages with the keys that ``GlobalBatchLoop`` needs."""

import functools
import os.path
from collections.abc import Callable
from typing import Any

from torch.utils.data import Dataset

from xtra_toolkit.data.seeding import SeededSamples
from xtra_toolkit.registry import DATASETS

MISSING_FILES = (OSError, RuntimeError, AssertionError)  # raised by data sets of other packages


@DATASETS.register_module()
def SeededDataset(dataset: str, expects: str = "", data_root: str = "", **kwargs: Any) -> Dataset:
    """Build a registered data set whose augmentation depends on the key (seed, epoch, index).

    The result is an instance of a subclass of its class with the mixin ``SeededSamples``, so
    ``metainfo``, ``get_cat_ids``, ``full_init`` and tools like ``browse_dataset`` work as usual.

    Args:
        dataset: Registered name with the package, such as ``'mmpretrain.DTD'``.
        expects: Description of the files below ``data_root``, for the error message.
        data_root: The folder. ``~`` is the home folder.
        **kwargs: Arguments of that class, such as ``split`` and ``pipeline``.

    Raises:
        ValueError: There is no such class, or the folder is absent or lacks files of the class.
    """
    kind = DATASETS.get(dataset)
    if not isinstance(kind, type):
        raise ValueError(
            f"No data set {dataset!r} is registered. Give the package with the name, as in "
            "'mmpretrain.DTD'."
        )
    try:
        if not os.path.isdir(root := os.path.expanduser(data_root)):
            raise FileNotFoundError("there is no such folder")
        return seeded_class(kind)(data_root=root, **kwargs)
    except MISSING_FILES as error:
        cause = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".")
        raise ValueError(
            f"{dataset} cannot be read from {os.path.abspath(root)!r}: {cause}. Expected "
            f"there: {expects or 'see the documentation of the class'}. Nothing was downloaded. "
            "Name another folder with --cfg-options "
            "train_dataloader.dataset.data_root=/path val_dataloader.dataset.data_root=/path."
        ) from error


@functools.cache
def seeded_class(kind: type) -> type:
    """Return a subclass of ``kind`` with ``SeededSamples``, under the same name."""
    members = {"__module__": kind.__module__, "__reduce_ex__": _reduce, "__doc__": kind.__doc__}
    return type(kind.__name__, (SeededSamples, kind), members)


def _reduce(dataset: Dataset, protocol: int) -> tuple[Callable, tuple, dict]:
    """Pickle an instance for spawned workers, since pickle cannot find a class made at run time."""
    return _empty, (type(dataset).__bases__[1],), dataset.__dict__


def _empty(kind: type) -> Dataset:
    return object.__new__(seeded_class(kind))
