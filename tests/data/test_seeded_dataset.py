"""Test data sets of other packages with keys, and the messages about absent files."""

import pickle

import pytest
import torch
from helpers import layouts
from mmpretrain.datasets import CIFAR10, DTD, BaseDataset
from mmpretrain.registry import DATASETS, TRANSFORMS

PIPELINE = [
    dict(type="xtra_toolkit.LoadImage"),
    dict(type="mmpretrain.RandomResizedCrop", scale=8),
    dict(type="mmpretrain.PackInputs"),
]


def seeded(dataset, root, **kwargs):
    config = dict(type="xtra_toolkit.SeededDataset", dataset=dataset, data_root=str(root))
    return DATASETS.build(config | kwargs)


@pytest.fixture
def textures(tmp_path):
    layouts.dtd(tmp_path)
    return seeded("mmpretrain.DTD", tmp_path, split="trainval", pipeline=PIPELINE)


def test_the_data_set_is_an_instance_of_the_named_class(textures):
    assert isinstance(textures, DTD) and isinstance(textures, BaseDataset)
    assert type(textures).__name__ == "DTD"
    assert len(textures) == 2 and textures.get_cat_ids(1) == [46]
    assert textures.metainfo["classes"][46] == "zigzagged"
    assert "Number of samples" in repr(textures)


def test_a_key_decides_the_crop(textures):
    one, again, later = textures[7, 0, 1], textures[7, 0, 1], textures[7, 1, 1]
    assert torch.equal(one["inputs"], again["inputs"])
    assert not torch.equal(one["inputs"], later["inputs"])
    assert one["data_samples"].draw_seed == again["data_samples"].draw_seed


def test_the_data_set_can_be_pickled_for_a_spawned_worker(textures):
    copy = pickle.loads(pickle.dumps(textures))
    assert type(copy) is type(textures)
    assert torch.equal(copy[7, 0, 1]["inputs"], textures[7, 0, 1]["inputs"])


def test_the_home_folder_may_be_written_as_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    layouts.dtd(tmp_path / "textures")
    assert len(seeded("mmpretrain.DTD", "~/textures", split="test")) == 1


def test_an_unknown_data_set_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"No data set 'mmpretrain\.ZIFAR' is registered"):
        seeded("mmpretrain.ZIFAR", tmp_path)


def test_missing_files_are_reported_by_their_names(tmp_path):
    layouts.put(tmp_path, "train/a/1.png", "train/b/2.png")
    with pytest.raises(ValueError, match=r"subfolders \(2\).*1000.*Expected there: train/ and"):
        seeded("mmpretrain.ImageNet", tmp_path, split="train", expects="train/ and val/")


def test_an_absent_cifar_is_not_downloaded(tmp_path):
    with pytest.raises(ValueError, match="Cannot find CIFAR10") as caught:
        seeded("mmpretrain.CIFAR10", tmp_path, download=False, expects="its batches")
    assert "Expected there: its batches. Nothing was downloaded" in str(caught.value)


def test_a_mistake_in_the_config_keeps_its_own_message(tmp_path):
    layouts.dtd(tmp_path)
    with pytest.raises(TypeError, match="splitt"):
        seeded("mmpretrain.DTD", tmp_path, splitt="train")
    with pytest.raises(KeyError, match="Krop is not in"):
        seeded("mmpretrain.DTD", tmp_path, pipeline=[dict(type="mmpretrain.Krop")])


def test_cifar_images_become_bgr(tmp_path, monkeypatch):
    """MMPretrain gives them as RGB."""
    monkeypatch.setattr(CIFAR10, "_check_integrity", lambda self: True)
    layouts.cifar10(tmp_path)
    data = seeded("mmpretrain.CIFAR10", tmp_path, split="test")
    swap = TRANSFORMS.build(dict(type="xtra_toolkit.RGBToBGR"))
    assert data[0]["img"][5, 7].tolist() == [10, 20, 30]
    assert swap(data[0])["img"][5, 7].tolist() == [30, 20, 10]
