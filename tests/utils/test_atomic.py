"""Test that files are replaced as a whole or not at all, and that no link is followed."""

import os
import secrets

import numpy as np
import pytest
import torch
from helpers.commands import xtra
from helpers.made_up_runs import pretraining, start, training
from PIL import Image

from xtra_toolkit.utils.atomic import replacing
from xtra_toolkit.utils.atomic_backend import AtomicBackend


def planted(tmp_path, name):
    """Write a file of the user, and links to it under names that are easy to guess."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    for suffix in (".part", ".tmp", ".unfinished"):
        (tmp_path / f"{name}{suffix}").symlink_to(victim)
    return victim


def test_xtra_index_follows_no_planted_link(tmp_path):
    victim = planted(tmp_path, "index.txt")
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    assert xtra("index", tmp_path).exit_code == 0
    assert victim.read_text() == "mine"
    assert (tmp_path / "index.txt").read_text() == "a.png\n"


def test_xtra_report_follows_no_planted_link(tmp_path):
    victim = planted(tmp_path, "report.html")
    start(tmp_path, pretraining(), training())
    assert xtra("report", tmp_path).exit_code == 0
    assert victim.read_text() == "mine" and (tmp_path / "report.html").is_file()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_xtra_convert_follows_no_planted_link(suffix, tmp_path):
    from xtra_toolkit.cli.convert import save

    victim = planted(tmp_path, f"x{suffix}")
    save(dict(state_dict=dict(weight=torch.ones(2)), meta={}), tmp_path / f"x{suffix}")
    assert victim.read_text() == "mine"
    assert (tmp_path / f"x{suffix}").stat().st_size > 8


def test_a_checkpoint_follows_no_planted_link(tmp_path):
    victim = planted(tmp_path, "iter_1.pth")
    AtomicBackend().put(b"weights", tmp_path / "iter_1.pth")
    assert victim.read_text() == "mine" and (tmp_path / "iter_1.pth").read_bytes() == b"weights"


def test_xtra_clusters_follows_no_dangling_link(tmp_path):
    pytest.importorskip("sklearn")
    (tmp_path / "images").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "images" / "a.png")
    (tmp_path / "colours.npy").symlink_to(tmp_path / "victim")
    done = xtra("clusters", tmp_path / "images", tmp_path / "colours.npy", "--number", 2)
    assert done.exit_code == 0, done.output
    assert not (tmp_path / "victim").exists() and np.load(tmp_path / "colours.npy").shape == (2, 3)


def test_a_link_with_the_name_of_the_new_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(secrets, "token_hex", lambda _: "guessed")
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / ".guessed.x.unfinished").symlink_to(victim)
    with pytest.raises(FileExistsError), replacing(tmp_path / "x") as file:
        file.write(b"theirs")
    assert victim.read_text() == "mine" and not (tmp_path / "x").exists()


def test_an_error_keeps_the_old_file_and_removes_the_new_one(tmp_path):
    (tmp_path / "x").write_text("old")
    with pytest.raises(KeyError), replacing(tmp_path / "x") as file:
        file.write(b"half")
        raise KeyError
    assert os.listdir(tmp_path) == ["x"] and (tmp_path / "x").read_text() == "old"


def test_a_new_file_has_the_usual_permissions(tmp_path):
    (tmp_path / "other").write_text("")
    with replacing(tmp_path / "x") as file:
        file.write(b"new")
    assert (tmp_path / "x").stat().st_mode == (tmp_path / "other").stat().st_mode
