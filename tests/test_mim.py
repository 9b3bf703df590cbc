"""Test the real command line, with one process for each way to launch it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import photographs

ROOT = Path(__file__).parents[1]


def mim(config, *options, work_dir, ok=True):
    """Run ``mim train mmpretrain CONFIG``; check for success or failure, and return the output.

    It runs beside ``work_dir``. Name paths in options from there: MMEngine removes their spaces.
    """
    command = [Path(sys.executable).parent / "mim", "train", "mmpretrain", ROOT / config]
    command += ["--work-dir", work_dir, *options]
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, cwd=work_dir.parent
    )
    output = done.stdout + done.stderr
    assert (done.returncode == 0) == ok, output[-4000:]
    return output


def scalars(work_dir):
    """Return the logged values of all runs in ``work_dir``, a dict for each line, oldest first."""
    files = sorted(work_dir.glob("*/vis_data/scalars.json"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return photographs.write(tmp_path_factory.mktemp("photos"), 18)


def trains_and_resumes(config, photos, work_dir):
    options = [
        "--cfg-options",
        f"train_dataloader.dataset.data_root={os.path.relpath(photos, work_dir.parent)}",
        "train_dataloader.batch_size=4",
        "train_dataloader.num_workers=1",  # torch warns of more workers than cores
        "train_cfg.global_batch=8",
    ]
    output = mim(config, *options, "train_cfg.max_epochs=1", work_dir=work_dir)
    assert "8 images a step = 1 process x 4 images x 2 accumulated; 2 steps an epoch" in output
    assert "240 of 256 positions computed" in output
    assert not [line for line in output.splitlines() if "Warning" in line or "WARNING" in line]
    checkpoint = torch.load(work_dir / "epoch_1.pth", weights_only=True)
    assert checkpoint["meta"]["iter"] == 2
    assert "backbone.xtra_toolkit_attention_mask.json" in checkpoint["state_dict"]

    output = mim(config, "--resume", *options, "train_cfg.max_epochs=2", work_dir=work_dir)
    assert "resumed epoch: 1, iter: 2" in output
    assert torch.load(work_dir / "epoch_2.pth", weights_only=True)["meta"]["iter"] == 4
    losses = [line["loss"] for line in scalars(work_dir) if "loss" in line]
    assert losses and all(0 < loss < 10 for loss in losses)


def test_a_tiny_xtra_trains_on_a_folder_of_photographs_and_resumes(photos, tmp_path):
    trains_and_resumes("tests/configs/xtra_tiny.py", photos, tmp_path / "run")


@pytest.mark.slow
def test_the_full_xtra_vit_b16_trains_and_resumes(photos, tmp_path):
    trains_and_resumes("mmconfigs/xtra_vit-b16.py", photos, tmp_path / "run")


@pytest.mark.slow  # what the sentence says is tested in data/test_image_folder.py
def test_an_absent_folder_is_reported_with_what_to_do(tmp_path):
    output = mim("mmconfigs/xtra_vit-b16.py", work_dir=tmp_path / "run", ok=False)
    assert "There is no folder" in output
    assert "--cfg-options train_dataloader.dataset.data_root=/path/to/images" in output
