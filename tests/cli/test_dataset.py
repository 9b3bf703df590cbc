"""Test ``xtra dataset``: which images are listed from the published metadata, and the errors."""

import functools
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import commands, layouts
from PIL import Image

from xtra_toolkit.cli.dataset import NAMES
from xtra_toolkit.evaluation.published_datasets import READERS

xtra = functools.partial(commands.xtra, "dataset")


def lines(root, split):
    return (root / f"{split}.txt").read_text().splitlines()


def test_the_command_offers_every_reader():
    assert sorted(NAMES) == sorted(READERS)


def test_inat18_is_read(tmp_path):
    """An annotation names its image by its id, not by its place."""
    output = layouts.inat18(tmp_path)
    assert lines(tmp_path, "train") == [
        "train_val2018/Aves/8141/train.jpg 8141",
        "train_val2018/Aves/3/train.jpg 3",
    ]
    assert lines(tmp_path, "val")[0] == "train_val2018/Aves/8141/val.jpg 8141"
    assert "val.txt: 2 images of 2 classes" in output


def test_iwildcam_is_read(tmp_path):
    layouts.iwildcam(tmp_path)
    assert lines(tmp_path, "train") == ["train/train.jpg 0", "train/other.jpg 5"]
    assert lines(tmp_path, "val") == ["train/val.jpg 181"]


def test_camelyon17_is_read(tmp_path):
    """Validation has all patches of hospital 1; hospital 2 is WILDS' test set, and a part of the
    others is held out. Numbers of patients keep their zeros.
    """
    layouts.camelyon17(tmp_path)
    listed = [line.split("/")[1] for line in lines(tmp_path, "train")]
    assert listed == [f"patient_00{center}_node_0" for center in (0, 3, 4)]
    assert [line[-1] for line in lines(tmp_path, "train")] == ["0", "1", "0"]
    folder = "patient_001_node_1"
    assert lines(tmp_path, "val")[1] == f"patches/{folder}/patch_{folder}_x_7_y_9.png 1"
    assert len(lines(tmp_path, "val")) == 2


def test_rxrx1_is_read(tmp_path):
    """Training takes the first site of a well, and validation takes both."""
    layouts.rxrx1(tmp_path)
    folder = "images/HEPG2-train/Plate1"
    assert lines(tmp_path, "train") == [f"{folder}/B02_s1.png 0", f"{folder}/C03_s1.png 1138"]
    assert [line.split("/")[-1] for line in lines(tmp_path, "val")] == [
        *("B02_s1.png 0", "B02_s2.png 0", "C03_s1.png 1138")
    ]


def test_fmow_is_read(tmp_path):
    """File numbers are rows of the table; training ends in 2012, validation has 2013 to 2015."""
    layouts.fmow(tmp_path)
    assert lines(tmp_path, "train") == ["images/rgb_img_0.png 1", "images/rgb_img_16.png 0"]
    assert lines(tmp_path, "val") == ["images/rgb_img_5.png 0", "images/rgb_img_6.png 1"]


def test_eurosat_is_read(tmp_path):
    layouts.eurosat(tmp_path)
    assert lines(tmp_path, "val")[9] == "SeaLake/SeaLake_10.jpg 9"
    assert len(lines(tmp_path, "val")) == 10
    assert len(lines(tmp_path, "train")) == 20  # 4 and 11; 5 is left out


def test_pcam_is_read(tmp_path, monkeypatch):
    """A stand-in replaces h5py, which the tests do not install."""
    pixels = np.random.default_rng(0).integers(0, 255, (3, 96, 96, 3), np.uint8)
    content = {"x": pixels, "y": np.uint8([0, 1, 1]).reshape(3, 1, 1, 1)}

    @contextmanager
    def file(path):
        yield {path.stem[-1]: content[path.stem[-1]]}

    monkeypatch.setitem(sys.modules, "h5py", SimpleNamespace(File=file))
    for split in ("train", "valid"):
        for part in "xy":
            (tmp_path / f"camelyonpatch_level_2_split_{split}_{part}.h5").touch()
    assert xtra("pcam", tmp_path).exit_code == 0
    assert lines(tmp_path, "val") == ["val/000000.png 0", "val/000001.png 1", "val/000002.png 1"]
    written = np.asarray(Image.open(tmp_path / "train" / "000002.png"))
    assert np.array_equal(written, pixels[2])


def test_pcam_without_h5py_is_refused_with_a_message(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    result = xtra("pcam", tmp_path)
    assert result.exit_code == 1
    assert "pip install xtra_toolkit[benchmarks]" in result.output


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("iwildcam", "metadata.csv: give the folder that holds metadata.csv, unpacked"),
        ("inat18", "train2018.json: give the folder that holds train2018.json, unpacked"),
        ("eurosat", "has 0 folders; EuroSAT has 10"),
    ],
)
def test_absent_metadata_is_reported(tmp_path, name, sentence):
    result = xtra(name, tmp_path)
    assert result.exit_code == 1 and sentence in result.output


def test_an_unknown_table_is_reported(tmp_path):
    layouts.table(tmp_path / "metadata.csv", "split,file", ["train", "a.jpg"])
    assert (
        "has no column filename, y; it has ['split', 'file']" in xtra("iwildcam", tmp_path).output
    )


def test_an_unknown_file_name_is_reported(tmp_path):
    layouts.put(tmp_path, *(f"{letter}/{letter}_1.jpg" for letter in "abcdefghi"), "j/1.jpg")
    assert "j/1.jpg is not named as EuroSAT's images, j_1.jpg" in xtra("eurosat", tmp_path).output


def test_absent_images_are_reported_and_nothing_is_written(tmp_path):
    layouts.table(tmp_path / "metadata.csv", "split,filename,y", ["train", "a", 1], ["val", "b", 2])
    layouts.put(tmp_path, "train/a")
    result = xtra("iwildcam", tmp_path)
    assert "1 of the 2 images" in result.output and "the first is train/b" in result.output
    assert not (tmp_path / "train.txt").exists()


def test_a_label_that_is_no_number_is_reported(tmp_path):
    layouts.table(tmp_path / "metadata.csv", "split,filename,y", ["train", "a", "zebra"])
    assert "has 'zebra' where a whole number is expected" in xtra("iwildcam", tmp_path).output


def test_an_empty_split_is_reported(tmp_path):
    layouts.table(tmp_path / "metadata.csv", "split,filename,y", ["train", "a", 1])
    assert "names no image of the split 'val'" in xtra("iwildcam", tmp_path).output


def test_lists_are_overwritten_only_with_force(tmp_path):
    layouts.iwildcam(tmp_path)
    (tmp_path / "train.txt").write_text("mine")
    assert "overwrite it with --force" in xtra("iwildcam", tmp_path).output
    assert lines(tmp_path, "train") == ["mine"]
    assert xtra("iwildcam", tmp_path, "--force").exit_code == 0
    assert len(lines(tmp_path, "train")) == 2
