"""Test the real launcher with two processes that shard."""

import pytest
from helpers import photographs
from test_mim import mim
from test_mim_processes import losses


@pytest.mark.slow
def test_a_sharded_run_on_two_processes_resumes_and_equals_a_run_on_one(tmp_path):
    """Train with drop path and random crops, and compare the logged losses of each step."""
    photos = photographs.write(tmp_path / "photos", 18)
    options = ["--cfg-options", f"train_dataloader.dataset.data_root={photos.name}"]
    options += ["train_dataloader.batch_size=4", "train_dataloader.num_workers=1"]
    options += ["train_cfg.global_batch=8", "model.backbone.drop_path_rate=0.1"]
    options += ["param_scheduler.0.end=3", "param_scheduler.1.begin=3", "param_scheduler.1.end=4"]
    sharded, whole = (f"tests/configs/xtra_tiny{kind}.py" for kind in ("_fsdp", ""))

    two = ["--launcher", "pytorch", "--gpus", "2"]
    two += [*options, "model.with_cp=True"]  # activation checkpointing goes with it
    begun = mim(sharded, *two, "train_cfg.max_epochs=2", work_dir=tmp_path / "two")
    assert "8 images a step = 2 processes x 4 images x 1 accumulated" in begun
    options.append("train_cfg.max_epochs=4")
    again = mim(sharded, "--resume", *two, options[-1], work_dir=tmp_path / "two")
    assert "resumed epoch: 2, iter: 4" in again
    mim(whole, *options, work_dir=tmp_path / "one")
    parts, one = losses(tmp_path / "two"), losses(tmp_path / "one")
    assert list(parts) == list(one) == list(range(1, 9))
    assert parts == pytest.approx(one, rel=1e-5)

    alone = mim(sharded, *options, work_dir=tmp_path / "alone", ok=False)
    assert "--launcher pytorch --gpus N" in alone
