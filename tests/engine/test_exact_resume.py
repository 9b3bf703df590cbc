"""Test that a run that was stopped and resumed equals an uninterrupted run bit by bit."""

import random

import numpy as np
import pytest
import torch
from helpers.tiny_runs import GLOBAL_BATCH, IMAGES, PIPELINE, flat, logged, run
from mmengine.hooks import Hook

from xtra_toolkit.data import Digits

BF16 = dict(
    type="xtra_toolkit.MasterWeightsOptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-3),
    clip_grad=dict(max_norm=1.0),
)
CASES = {
    "XTRA": dict(pair="XTRA"),
    "AIM": dict(pair="AIM"),
    "MAE": dict(pair="MAE"),
    "XTRA in bfloat16": dict(pair="XTRA", optim_wrapper=BF16),
}


class Restless(Hook):
    """Draw from all generators between the steps, as a hook or a validation may."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        random.random(), np.random.rand(), torch.rand(())


@pytest.mark.parametrize("case", CASES)
def test_a_run_that_is_resumed_within_an_epoch_ends_bit_identical(case, tmp_path):
    """Train with accumulation, workers, drop path and random crops."""
    hooks = [dict(type="xtra_toolkit.SafeResume"), Restless()]
    options = dict(workers=2, custom_hooks=hooks, **CASES[case])
    whole, seen = run(tmp_path / "whole", **options)
    kept = str(tmp_path / "whole" / "iter_7.pth")  # of 15, 5 an epoch
    resumed, rest = run(tmp_path / "rest", load_from=kept, resume=True, **options)

    after = list(range(7, 15))
    assert list(rest.steps) == after
    assert rest.steps == {step: seen.steps[step] for step in after}
    assert rest.losses == {step: seen.losses[step] for step in after}
    assert rest.rates == {step: seen.rates[step] for step in after}
    assert len({seen.losses[step] for step in after}) == 8 and len(set(seen.rates.values())) > 10
    lines = logged(tmp_path / "whole")
    assert logged(tmp_path / "rest") == {step: lines[step] for step in range(8, 16)}
    for part in ("model", "optim_wrapper"):
        one, other = (flat(getattr(runner, part).state_dict()) for runner in (whole, resumed))
        assert len(one) > 30 and one == other


def test_random_numbers_differ_from_step_to_step(tmp_path):
    """Without this, equal crops, masks and drop path would prove nothing."""
    _, seen = run(tmp_path / "one", "MAE")
    _, other = run(tmp_path / "two", "MAE", randomness=dict(seed=4))
    images = [image for step in (*seen.steps.values(), *other.steps.values()) for image in step[0]]
    masks = [mask for step in (*seen.steps.values(), *other.steps.values()) for mask in step[1]]
    assert len(set(masks)) == len(masks) == 2 * 15 * GLOBAL_BATCH
    assert len(set(images)) > 0.9 * len(images)  # two crops of 8×8 px may be equal by chance
    _, without = run(tmp_path / "three", "MAE", drop_path=0.0)
    assert without.steps == seen.steps and without.losses != seen.losses


class Counted(Digits):
    """Count the images that are read."""

    reads = 0

    def get_data_info(self, index):
        Counted.reads += 1
        return super().get_data_info(index)


def test_a_resumed_run_reads_no_earlier_image(tmp_path):
    kept, dataset = tmp_path / "iter_7.pth", Counted("train", indices=IMAGES, pipeline=PIPELINE)
    Counted.reads = 0
    run(tmp_path, "XTRA", dataset=dataset)
    assert Counted.reads == 15 * GLOBAL_BATCH
    Counted.reads = 0
    run(tmp_path, "XTRA", dataset=dataset, load_from=str(kept), resume=True)
    assert Counted.reads == 8 * GLOBAL_BATCH
