"""Test ``xtra probe``: linear, attentive and kNN probes on a labelled folder."""

import numpy as np
import pytest
from helpers import commands
from helpers.folders import write_checkpoint, write_images

from xtra_toolkit.data.datasets.listing import stratified
from xtra_toolkit.evaluation.probing import Result
from xtra_toolkit.training import fine_tuning


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    write_images(folder / "flat", dict(a=15, b=10))
    write_images(folder / "split", {"train/a": 8, "train/b": 8, "val/a": 1, "val/b": 3})
    write_images(folder / "other", {"train/a": 2, "val/b": 1})
    write_images(folder / "one", dict(a=3))
    write_images(folder / "stray", {".": 1, "a": 2})
    write_checkpoint(folder / "x.pth")
    return folder


def xtra(folder, images, *args):
    return commands.xtra("probe", folder / "x.pth", folder / images, "--epochs", 20, *args)


def test_the_table_has_the_measured_accuracies(folder):
    """Any probe of a random encoder can tell which half of an image is black."""
    result = xtra(folder, "flat", "--k", 3)
    assert result.exit_code == 0, result.output
    assert "20 images train and 5 test, 2 classes, a fifth of each class tests" in result.output
    lines = [line.split() for line in result.output.splitlines()]
    best = {line[0]: float(line[2]) for line in lines if line[-1:] == ["best"]}
    assert best == dict(linear=100.0, attentive=100.0)
    assert ["kNN,", "k=3", "100.0", "%"] in lines and ["majority", "60.0", "%"] in lines
    assert sum(line[:1] == ["linear"] for line in lines) == 7
    assert xtra(folder, "flat", "--k", 3).output == result.output


def test_the_split_of_the_folder_and_given_rates_are_used(folder):
    output = xtra(folder, "split", "--rate", 1e-9, "--rate", 2e-9).output
    assert "16 images train and 4 test, 2 classes, the folder's own split" in output
    assert "1e-9" in output and "2e-9" in output
    assert "of the linear probe, 1e-9, is the edge of the sweep" in output
    assert ["majority", "25.0", "%"] in [line.split() for line in output.splitlines()]


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        ("nowhere", "there is no folder"),
        ("one", "has one class, 'a'"),
        ("stray", "'00.png' lies in no sub-folder"),
        ("other", "tests the class 'b', of which train/ has no image"),
    ],
)
def test_invalid_folders_are_refused(folder, images, sentence):
    result = xtra(folder, images)
    assert result.exit_code == 1 and sentence in result.output


def test_the_split_is_fixed_and_stratified():
    labels = np.array([0] * 50 + [1] * 10 + [2] * 2 + [3])
    train = stratified(labels)
    assert [int((~train[labels == c]).sum()) for c in range(4)] == [10, 2, 1, 0]
    assert (train == stratified(labels)).all()


@pytest.mark.parametrize(
    ("accuracies", "edge"),
    [
        ({1e-3: 5.0, 1e-2: 6.0, 1e-1: 5.5}, False),
        ({1e-3: 5.0, 1e-2: 6.0, 1e-1: 6.5}, True),
        ({1e-3: 7.0, 1e-2: 6.0, 1e-1: 5.5}, True),
        ({1e-3: 7.0, 1e-2: 7.0, 1e-1: 5.5}, False),
        ({1e-3: 7.0}, False),
        ({None: 7.0}, False),
    ],
)
def test_a_best_rate_at_the_edge_of_the_sweep_is_reported(accuracies, edge):
    assert Result("linear", accuracies).at_edge is edge


def test_fine_tuning(folder, tmp_path, capfd):
    """Check that a fine-tuned encoder tells which half is black, and is trained once."""
    given = ("split", "--k", 3, "--fine-tune", "--out", tmp_path / "run")
    result = xtra(folder, *given)
    assert result.exit_code == 0, result.output + capfd.readouterr().err
    assert "fine-tuning the encoder for 20 epochs" in result.output
    name, rate, accuracy, _ = result.output.splitlines()[-1].split()
    assert (name, rate) == ("fine-tuned", "1e-3") and float(accuracy) >= 75
    assert f"accuracy/top1 {float(accuracy):.4f}" in capfd.readouterr().out
    assert (tmp_path / "run" / "epoch_20.pth").is_file()
    again = xtra(folder, *given)
    assert again.exit_code == 0 and again.output.splitlines()[-1].split()[2] == accuracy
    assert "step" not in capfd.readouterr().out
    other = xtra(folder, "flat", "--k", 3, "--fine-tune", "--out", tmp_path / "run")
    assert other.exit_code == 1 and "holds a fine-tuning of another" in other.output


def test_the_rate_of_fine_tuning_is_printed_as_those_of_the_probes(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(fine_tuning, "RATE", 0.0005)
    monkeypatch.setattr(fine_tuning, "fine_tune", lambda config, out: 80.0)
    result = xtra(folder, "split", "--rate", 0.0005, "--fine-tune", "--out", tmp_path / "run")
    lines = [line.split() for line in result.output.splitlines()]
    rates = [line[1] for line in lines if line[:1] in (["linear"], ["fine-tuned"])]
    assert rates == ["5e-4", "5e-4"], result.output
