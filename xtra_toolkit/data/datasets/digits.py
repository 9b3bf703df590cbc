"""Use scikit-learn's handwritten digits, a data set that needs no download."""

from typing import Any

import numpy as np
from mmpretrain.datasets import BaseDataset

from xtra_toolkit.data.seeding import SeededSamples
from xtra_toolkit.registry import DATASETS

TEST_IMAGES = 500


def _load() -> tuple[np.ndarray, np.ndarray]:
    """Return images, uint8 (1797, 8, 8, 1), and their labels, (1797,)."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "Digits reads scikit-learn's data set, and scikit-learn is not installed: "
            "pip install xtra_toolkit[demo]"
        ) from error
    digits = load_digits()
    images = np.round(digits.images * 255 / 16).astype(np.uint8)
    return images[..., None], digits.target


@DATASETS.register_module()
class Digits(SeededSamples, BaseDataset):
    """Give 8×8 grey digits, 1297 for training and 500 for testing, in a fixed shuffle.

    A sample has ``img``, uint8 of shape (8, 8, 1), and ``gt_label``, 0 to 9.

    Args:
        split: ``'train'`` or ``'test'``.
        **kwargs: Arguments of MMPretrain's ``BaseDataset``, such as ``pipeline``.
    """

    METAINFO = {"classes": tuple("0123456789")}

    def __init__(self, split: str = "train", **kwargs: Any):
        if split not in ("train", "test"):
            raise ValueError(f"Digits has the splits 'train' and 'test', not {split!r}.")
        self.split = split
        super().__init__(**{"ann_file": "", **kwargs})

    def load_data_list(self) -> list[dict]:
        """Return one dictionary for each sample, with ``img`` and ``gt_label``."""
        images, labels = _load()
        order = np.random.RandomState(0).permutation(len(images))
        train, test = order[:-TEST_IMAGES], order[-TEST_IMAGES:]
        chosen = train if self.split == "train" else test
        return [{"img": images[i], "gt_label": int(labels[i])} for i in chosen]
