"""Test loss and accuracy of the checkpoints of a comparison."""

import pytest
import torch
from mmengine.config import Config
from mmpretrain.registry import MODELS

from xtra_toolkit.comparison import probes
from xtra_toolkit.comparison.checkpoints import (
    correlation_sentences,
    kept_checkpoints,
    measure_checkpoint,
)
from xtra_toolkit.comparison.plan import find_config
from xtra_toolkit.comparison.results import Results

POINTS = [(0.9, 40.0), (0.8, 42.0), (0.7, 41.0), (0.6, 45.0)]


def test_checkpoints_are_ordered_and_near_duplicates_left_out(tmp_path):
    for name in ("iter_156", "iter_1000", "iter_999", "iter_624", "best_loss"):
        (tmp_path / f"{name}.pth").touch()
    assert list(kept_checkpoints(tmp_path)) == [156, 624, 1000]


def test_the_rank_correlation_is_within_an_objective_over_its_runs(tmp_path):
    plan = dict(images=dict(xtra=640, mae=640))
    results = Results(tmp_path / "compare.json", plan=plan, commit="abc")
    points = [dict(step=i, loss=loss, linear=top1) for i, (loss, top1) in enumerate(POINTS)]
    results.record("xtra", 0, checkpoints=points[:2])
    results.record("xtra", 1, checkpoints=points[2:])
    results.record("mae", 0, checkpoints=points[:2])
    assert correlation_sentences(results) == [
        "xtra: \N{MINUS SIGN}0.80 over 4 checkpoints of 2 runs; loss 0.900 to 0.600, accuracy "
        "40.0 to 45.0 %."
    ]


def test_a_checkpoint_has_the_loss_of_its_weights(tmp_path):
    config = Config.fromfile(find_config("xtra_digits"))
    torch.manual_seed(0)
    images = probes.Labelled(torch.randn(60, 1, 8, 8), torch.arange(60) % 3)
    model = MODELS.build(config.model)
    model.init_weights()
    torch.save(dict(state_dict=model.state_dict()), tmp_path / "iter_1.pth")
    expected = model.eval().predict(images.x)[0].pretrain_loss.item()
    found = measure_checkpoint(config, tmp_path / "iter_1.pth", images, images)
    assert found["loss"] == pytest.approx(expected, abs=1e-4) and found["linear"] > 33
