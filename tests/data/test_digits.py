"""Test the data set of scikit-learn digits."""

import sys

import numpy as np
import pytest
from mmpretrain.registry import DATASETS
from sklearn.datasets import load_digits

from xtra_toolkit.data import Digits


def images(dataset):
    return np.stack([dataset.get_data_info(i)["img"] for i in range(len(dataset))])


def test_the_splits_are_a_partition_of_the_images():
    train, test = images(Digits()), images(Digits(split="test"))
    assert (len(train), len(test)) == (1297, 500)
    every = np.round(load_digits().images * 255 / 16).astype(np.uint8).reshape(1797, -1)
    both = np.concatenate([train, test]).reshape(1797, -1)
    assert np.array_equal(np.sort(both.view("V64"), 0), np.sort(every.view("V64"), 0))
    assert both.min() == 0 and both.max() == 255


def test_the_shuffle_is_fixed():
    labels = Digits(split="test").get_gt_labels()
    assert labels[:8].tolist() == [0, 9, 6, 9, 8, 4, 5, 8]
    assert np.bincount(labels).min() > 30


def test_pack_inputs_takes_the_samples():
    config = dict(type="xtra_toolkit.Digits", pipeline=[dict(type="PackInputs")])
    dataset = DATASETS.build(config)
    sample = dataset[7, 0, 3]
    assert sample["inputs"].shape == (1, 8, 8)
    assert sample["data_samples"].gt_label.tolist() == [dataset.get_data_info(3)["gt_label"]]
    assert dataset.metainfo["classes"] == tuple("0123456789")


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="'train' and 'test', not 'val'"):
        Digits(split="val")


def test_without_scikit_learn_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"pip install xtra_toolkit\[demo\]"):
        Digits()
