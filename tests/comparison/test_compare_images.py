"""Test that any labelled images are packed at one size."""

import gzip
import json

import numpy as np
import pytest
from PIL import Image

from xtra_toolkit.comparison.images import SPLITS, fit, pack
from xtra_toolkit.data import PackedImages


def save(path, colour, size=(9, 12)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


@pytest.fixture
def folder(tmp_path):
    """Red and blue images, three of each to train on and two to test on."""
    for split, count in (("train", 3), ("val", 2)):
        for name, colour in (("blue", (0, 0, 250)), ("red", (250, 0, 0))):
            for i in range(count):
                save(tmp_path / "photos" / split / name / f"{i}.png", colour)
    return tmp_path / "photos"


def test_a_packed_image_keeps_its_colour_and_its_label(folder, tmp_path):
    packed = pack(str(folder), tmp_path / "out", size=8)
    for split, count in (("train", 6), ("test", 4)):
        data = PackedImages(str(packed), split)
        assert len(data) == count and data.metainfo["classes"] == ("blue", "red")
        for sample in (data[i] for i in range(count)):
            expected = [(0, 0, 250), (250, 0, 0)][sample["gt_label"]]
            assert sample["img"].shape == (8, 8, 3) and (sample["img"] == expected).all()
    assert json.loads((packed / "packed.json").read_text())["images"] == dict(train=6, test=4)


def test_held_out_images_are_training_images_that_are_not_trained_on(tmp_path):
    for i in range(10):
        save(tmp_path / "photos" / "train" / "grey" / f"{i}.png", (i, i, i))
    packed = pack(str(tmp_path / "photos"), tmp_path / "out", size=8, held_out=4)
    seen, tested = (np.load(packed / f"{split}_images.npy")[:, 0, 0, 0] for split in SPLITS)
    assert len(tested) == 4 and sorted([*seen, *tested]) == list(range(10))
    assert json.loads((packed / "packed.json").read_text())["images"] == dict(train=6, test=4)
    with pytest.raises(ValueError, match=r"10 training images were to be held out.*has 10"):
        pack(str(tmp_path / "photos"), tmp_path / "out", size=8, held_out=10)


def test_packed_images_are_shuffled_so_that_the_first_ones_are_a_fair_sample(folder, tmp_path):
    packed = pack(str(folder), tmp_path / "out", size=8, limits=dict(train=5))
    labels = np.load(packed / "train_labels.npy").tolist()
    assert len(labels) == 5 and labels != sorted(labels)


def test_an_image_is_scaled_by_its_shorter_side_and_cropped_at_the_centre():
    image = np.zeros((4, 8, 1), np.uint8)
    image[:, 2:6] = 200
    assert (fit(image, 4, 1) == 200).all()
    assert fit(image, 2, 3).shape == (2, 2, 3)


def test_idx_files_are_read_compressed_or_not_and_padded(tmp_path):
    pixels = np.arange(2 * 28 * 28, dtype=np.uint32).astype(np.uint8)
    for name in ("train", "t10k"):
        content = bytes(16) + pixels.tobytes()
        (tmp_path / f"{name}-images-idx3-ubyte.gz").write_bytes(gzip.compress(content))
        (tmp_path / f"{name}-labels-idx1-ubyte").write_bytes(bytes(8) + bytes([1, 0]))
    packed = pack(str(tmp_path), tmp_path / "out", size=32, channels=1)
    images, labels = (np.load(packed / f"test_{kind}.npy") for kind in ("images", "labels"))
    first = images[labels.tolist().index(1)]
    assert (first[2:30, 2:30, 0] == pixels[:784].reshape(28, 28)).all()
    assert not first[:2].any() and not first[:, 30:].any()


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        (lambda root: (root / "val").rename(root / "elsewhere"), "no test images were found"),
        (lambda root: (root / "val" / "red").rename(root / "val" / "green"), "of them has green"),
        (lambda root: (root / "val" / "red" / "0.png").write_text("x"), "0.png cannot be read"),
    ],
)
def test_a_broken_data_set_is_refused_with_a_sentence(folder, tmp_path, broken, sentence):
    broken(folder)
    with pytest.raises(ValueError, match=sentence):
        pack(str(folder), tmp_path / "out", size=8)


def test_a_folder_that_was_never_packed_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"found no train_images.npy and no train_labels"):
        PackedImages(str(tmp_path))
