"""Test OnlineProbe and SplitLoss with sharded weights on two processes."""

from pathlib import Path

import numpy as np
import pytest
from helpers import photographs
from helpers.processes import on_two
from helpers.watching import curves
from mmengine.config import Config
from mmengine.registry import RUNNERS

CONFIGS = Path(__file__).parents[1] / "configs"
WATCHES = {
    "default_hooks.online_probe": dict(type="xtra_toolkit.OnlineProbe", interval=1),
    "default_hooks.split_loss": dict(type="xtra_toolkit.SplitLoss", interval=1),
}
NAMES = ("loss", "probe/loss", "loss_step/001", "loss_step/003", "loss_band/0", "loss_band/5")


def train(name, folder, photos, **options):
    """Return what is logged in a run of 6 steps without drop path."""
    config = Config.fromfile(CONFIGS / f"{name}.py")
    changes = {
        "train_dataloader.dataset.data_root": str(photos),
        "train_dataloader.dataset.with_label": True,
        "train_dataloader.batch_size": 4 if "fsdp" in name else 8,
        "train_dataloader.num_workers": 0,
        "train_dataloader.persistent_workers": False,
        "train_dataloader.pin_memory": False,
        "train_cfg.global_batch": 8,
        "train_cfg.max_epochs": 3,
        "default_hooks.logger.interval": 1,
        "log_level": "WARNING",
        "work_dir": str(folder),
        "launcher": "pytorch" if "fsdp" in name else "none",
    }
    config.merge_from_dict(changes | options)
    RUNNERS.build(config).train()


def _sharded(rank, folder, photos):
    train("xtra_tiny_fsdp", folder / "plain", photos)
    train("xtra_tiny_fsdp", folder / "watched", photos, **WATCHES)


@pytest.mark.slow
def test_hooks_do_not_change_a_sharded_run_and_its_curves_are_those_of_an_unsharded_run(tmp_path):
    photos = photographs.write(tmp_path / "photos", 18)
    on_two(_sharded, tmp_path, photos)
    train("xtra_tiny", tmp_path / "whole", photos, **WATCHES)
    plain, watched, whole = (
        curves(tmp_path / name, *NAMES) for name in ("plain", "watched", "whole")
    )
    assert plain[0] == watched[0] and len(watched[0]) == 6
    for name, mine, other in zip(NAMES, watched, whole, strict=True):
        apart = (
            0.01 if name == "probe/loss" else 1e-4
        )  # the first step of AdamW is the sign of the gradient
        assert len(mine) > 0 or name == "loss_band/5"
        np.testing.assert_allclose(mine, other, rtol=apart)
