"""Test the real launcher with two processes."""

import pytest
from helpers import photographs
from test_mim import mim, scalars


def losses(work_dir):
    return {line["step"]: line["loss"] for line in scalars(work_dir) if "loss" in line}


@pytest.mark.slow
def test_a_run_on_two_processes_resumed_on_one_equals_a_run_on_one(tmp_path):
    """Train with drop path and random crops, and compare the logged losses of each step."""
    photos = photographs.write(tmp_path / "photos", 18)
    options = ["--cfg-options", f"train_dataloader.dataset.data_root={photos.name}"]
    options += ["train_dataloader.batch_size=4", "train_dataloader.num_workers=1"]
    options += ["train_cfg.global_batch=8", "model.backbone.drop_path_rate=0.1"]
    options += ["param_scheduler.0.end=3", "param_scheduler.1.begin=3", "param_scheduler.1.end=4"]
    two, one = "tests/configs/xtra_tiny_processes.py", "tests/configs/xtra_tiny.py"

    launch = ["--launcher", "pytorch", "--gpus", "2"]
    begun = mim(two, *launch, *options, "train_cfg.max_epochs=2", work_dir=tmp_path / "two")
    assert "8 images a step = 2 processes x 4 images x 1 accumulated" in begun
    options.append("train_cfg.max_epochs=4")
    mim(one, "--resume", *options, work_dir=tmp_path / "two")
    mim(one, *options, work_dir=tmp_path / "one")
    whole, parts = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert list(parts) == list(whole) == list(range(1, 9))
    assert parts == pytest.approx(whole, rel=1e-5)
