"""Test ``xtra features``: write the features of the images of a folder."""

import csv
import importlib.util

import numpy as np
import pytest
import torch
from helpers import commands
from helpers.folders import write_checkpoint, write_images
from safetensors import safe_open
from safetensors.numpy import load_file

import xtra_toolkit
from xtra_toolkit.cli import features


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Write images of two classes with and without a split and labels, and a checkpoint."""
    folder = tmp_path_factory.mktemp("images")
    write_images(folder / "flat", dict(a=7, b=5))
    write_images(folder / "split", {"train/a": 2, "train/b": 2, "val/a": 1, "val/b": 1})
    write_images(folder / "none", {".": 3})
    (folder / "flat" / "a" / "bad.png").write_text("this is no image")
    write_checkpoint(folder / "x.pth")
    return folder


def xtra(folder, images, out, *args):
    given = (folder / "x.pth", folder / images, "--out", folder / out, *args)
    return commands.xtra("features", *given)


def written(folder, images, *args):
    result = xtra(folder, images, "out.safetensors", "--force", *args)
    assert result.exit_code == 0, result.output
    return load_file(folder / "out.safetensors"), result.output


def names(data):
    return bytes(data["paths"]).decode().split("\n")


def test_each_image_is_read_once_and_bad_images_are_listed(folder):
    data, output = written(folder, "flat", "--batch-size", 5)
    assert names(data) == [f"a/{i:02}.png" for i in range(7)] + [f"b/{i:02}.png" for i in range(5)]
    assert data["labels"].tolist() == [0] * 7 + [1] * 5
    assert "bad.png' cannot be read" in output and "1 images could not be read" in output
    encoder, transform = xtra_toolkit.load(folder / "x.pth")
    for path, feature in zip(names(data), data["features"], strict=True):
        with torch.no_grad():
            expected = encoder(transform(folder / "flat" / path)[None])[0]
        np.testing.assert_allclose(feature, expected, atol=1e-5)
    with safe_open(folder / "out.safetensors", "np") as file:
        assert file.metadata()["classes"] == '["a", "b"]'


def test_a_folder_with_a_split_or_without_labels_is_read(folder):
    data, _ = written(folder, "split")
    assert data["labels"].tolist() == [0, 0, 1, 1, 0, 1] and names(data)[-1] == "val/b/00.png"
    data, output = written(folder, "none")
    assert "labels" not in data and len(data["features"]) == 3 and "no labels" in output


def test_features_in_bfloat16_are_close_to_float32(folder):
    full, half = (written(folder, "none", *a)[0] for a in ((), ("--dtype", "bfloat16")))
    scale = np.abs(full["features"]).max()
    assert 0 < np.abs(full["features"] - half["features"]).max() < 0.05 * scale


def test_an_npy_file_has_a_table_of_paths_and_classes(folder):
    assert xtra(folder, "flat", "f.npy").exit_code == 0
    with open(folder / "f.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert np.load(folder / "f.npy").shape == (len(rows), 48)
    assert rows[0] == {"path": "a/00.png", "class": "a"}


def test_parquet_has_a_row_for_each_image(folder):
    parquet = pytest.importorskip("pyarrow.parquet")
    assert xtra(folder, "flat", "f.parquet").exit_code == 0
    table = parquet.read_table(folder / "f.parquet").to_pydict()
    assert table["class"] == ["a"] * 7 + ["b"] * 5 and len(table["features"][0]) == 48


def test_parquet_without_pyarrow_is_refused_with_a_message(folder, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "pyarrow" else find(name, *a)
    )
    result = xtra(folder, "flat", "g.parquet")
    assert result.exit_code == 2 and "pip install 'xtra_toolkit[parquet]'" in result.output


def test_the_documented_lines_train_a_probe(folder):
    written(folder, "flat")
    text = features.features.callback.__doc__.split("\b\n")[1]
    lines = "\n".join(line.strip() for line in text.splitlines() if line.strip())
    import safetensors.numpy
    from sklearn.linear_model import LogisticRegression

    printed = []
    path = str(folder / "out.safetensors")
    exec(
        lines.replace("features.safetensors", path),
        dict(safetensors=safetensors, LogisticRegression=LogisticRegression, print=printed.append),
    )
    assert printed == [1.0]


@pytest.mark.parametrize(
    ("images", "out", "sentence"),
    [
        ("nowhere", "x.npy", "there is no folder"),
        ("flat", "x.txt", "ends in .safetensors, .npy, .parquet"),
        ("flat", "no/x.npy", "there is no folder"),
        ("flat", "x.pth", "ends in"),
    ],
)
def test_invalid_input_is_refused_with_a_message(folder, images, out, sentence):
    result = xtra(folder, images, out)
    assert result.exit_code and sentence in result.output


def test_an_existing_file_is_not_overwritten_without_force(folder):
    (folder / "there.safetensors").write_text("mine")
    result = xtra(folder, "flat", "there.safetensors")
    assert result.exit_code == 2 and "overwrite it with --force" in result.output
    assert (folder / "there.safetensors").read_text() == "mine"


def test_a_file_without_an_encoder_is_refused(folder):
    torch.save(dict(state_dict=dict(w=torch.zeros(2))), folder / "w.pth")
    given = (folder / "w.pth", folder / "flat", "--out", folder / "w.npy")
    result = commands.xtra("features", *given)
    assert result.exit_code == 1 and "holds no encoder of this toolkit" in result.output
