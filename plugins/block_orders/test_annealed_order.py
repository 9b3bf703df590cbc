"""The annealed order of RAR: its probability, its draws, its config, and a run that is resumed."""

import hashlib
import uuid
from pathlib import Path

import block_orders
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.runner import Runner
from mmpretrain.registry import MODELS

from xtra_toolkit.data import Digits
from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.masks import Reordered, TokenCausal
from xtra_toolkit.masks.rng import StepGenerator
from xtra_toolkit.objective.compiler import certify_objective
from xtra_toolkit.targets import NextToken
from xtra_toolkit.testing import check_steps
from xtra_toolkit.visualization.predictions.continuation import Continuation

CONFIG = Path(__file__).parent / "rar_vit-b16.py"
GRID = PatchGrid(4, 4, (4, 4))
RASTER = torch.arange(16)


@pytest.fixture
def training():
    """Return a function that tells MMEngine's hub the step and the number of steps of a run."""
    hub = MessageHub.get_instance(uuid.uuid4().hex)

    def at(step, steps=1000):
        hub.update_info("iter", step)
        hub.update_info("max_iters", steps)

    return at


def draw(seeds=None, **shares):
    seeds = list(range(400)) if seeds is None else seeds
    generator = StepGenerator(seeds, 7, "cpu")
    return block_orders.AnnealedOrder(**shares)(4, 4, len(seeds), generator)


def original(step, start, end):
    """Return the probability of a random order of RAR (get_rar_random_ratio in 1d-tokenizer)."""
    if step < start:
        return 1.0
    return 0.0 if step > end else 1.0 - (step - start) / (end - start)


def test_the_probability_is_that_of_the_original(training):
    order = block_orders.AnnealedOrder()
    for step in (0, 1, 499, 500, 501, 600, 625, 749, 750, 751, 999):
        training(step)
        assert order.probability() == pytest.approx(original(step, 500, 750), abs=1e-12)


def test_the_share_of_images_in_random_order_is_the_probability(training):
    shares = []
    for step in (0, 500, 625, 750, 999):
        training(step)
        order = draw()
        assert order.sort(1).values.eq(RASTER).all()
        shares.append((order != RASTER).any(1).float().mean().item())
    assert shares[:2] == [1, 1] and shares[3:] == [0, 0] and 0.4 < shares[2] < 0.6


def test_an_image_changes_to_raster_order_once_in_any_batch(training):
    training(600)
    early, alone = draw(), draw([5])
    training(700)
    late = draw()
    assert torch.equal(alone[0], early[5])
    random = (early != RASTER).any(1), (late != RASTER).any(1)
    assert not (random[1] & ~random[0]).any() and random[1].sum() < random[0].sum()
    assert torch.equal(late[random[1]], early[random[1]])


def test_evaluation_is_in_raster_order(training):
    training(0)
    mask = Reordered(TokenCausal(), block_orders.AnnealedOrder())
    assert mask(PatchGrid(4, 4), 3).order.tolist() == [RASTER.tolist()] * 3


def test_target_positions_are_required():
    mask = Reordered(TokenCausal(), block_orders.AnnealedOrder())
    with pytest.raises(ValueError, match="nothing tells the model where its target lies"):
        certify_objective(mask, NextToken(), PatchGrid(4, 4))
    certify_objective(mask, NextToken(positioned=True), PatchGrid(4, 4))


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.8, 0.2), (-0.1, 0.5), (0.5, 2)])
def test_shares_out_of_range_are_refused(shares):
    with pytest.raises(ValueError, match="shares of the training from 0 to 1, and end must"):
        block_orders.AnnealedOrder(*shares)


def small(size=16, patch=4, **backbone):
    """Return the model of the shipped config at a small width."""
    model = Config.fromfile(CONFIG).model
    arch = dict(embed_dims=24, num_layers=2, num_heads=2, feedforward_channels=48)
    model.backbone.update(arch=arch, img_size=size, patch_size=patch, **backbone)
    model.neck.update(projection=32, width=24, depth=1, heads=2)
    model.head.update(hidden=32)
    return model


def test_the_config_trains_for_two_steps(training):
    model = MODELS.build(small())
    check_steps(model, before=lambda step: training(step, 2))
    assert "none sees its target" in model.objective.certificate


def test_images_are_continued_in_raster_order():
    """Check the outputs that are kept against a whole pass over the continued images."""
    config = small()
    config.target_generator.normalise = False
    model = MODELS.build(config).eval()
    model.init_weights()
    task, images = Continuation(model, given=5), torch.randn(2, 3, 16, 16)
    known = ~GRID.patchify(task.shown(images)).isnan().any(-1)
    assert known.tolist() == [[True] * 5 + [False] * 11] * 2
    free = task.free_running(images)
    torch.testing.assert_close(task.teacher_forced(free), free, rtol=0, atol=1e-5)


def run(folder, **changes):
    """Train 12 steps, 4 an epoch; return the weights, and the orders of each step."""
    model = small(in_channels=1)
    model.data_preprocessor = dict(
        type="mmpretrain.SelfSupDataPreprocessor", mean=[77.8], std=[95.9], to_rgb=False
    )
    pipeline = [
        dict(type="xtra_toolkit.RandomResizedCrop", scale=16),
        dict(type="mmpretrain.PackInputs"),
    ]
    config = dict(
        model=model,
        work_dir=str(folder),
        default_scope="mmpretrain",
        train_dataloader=dict(
            dataset=Digits("train", indices=32, pipeline=pipeline),
            batch_size=4,
            num_workers=0,
            collate_fn=dict(type="default_collate"),
        ),
        train_cfg=dict(type="xtra_toolkit.GlobalBatchLoop", max_epochs=3, global_batch=8),
        optim_wrapper=dict(optimizer=dict(type="AdamW", lr=1e-3)),
        default_hooks=dict(checkpoint=dict(type="CheckpointHook", interval=7, by_epoch=False)),
        custom_hooks=[dict(type="xtra_toolkit.SafeResume")],
        randomness=dict(seed=3),
        experiment_name=uuid.uuid4().hex,
        log_level="ERROR",
    )
    runner, orders = Runner(**{**config, **changes}), {}
    mask = runner.model.objective.mask

    def drawn(*args):
        made = mask(*args)
        orders.setdefault(runner.iter, []).append(made.order)
        return made

    runner.model.objective.mask = drawn
    runner.train()
    return runner.model.state_dict(), {step: torch.cat(rows) for step, rows in orders.items()}


def test_a_run_that_is_resumed_within_the_annealing_draws_the_same_orders(tmp_path):
    weights, orders = run(tmp_path / "whole")
    random = [(rows != torch.arange(16)).any(1).float().mean().item() for rows in orders.values()]
    assert random[:6] == [1] * 6 and random[9:] == [0] * 3 and 0 < sum(random[7:9]) < 2
    kept = str(tmp_path / "whole" / "iter_7.pth")
    resumed, rest = run(tmp_path / "rest", load_from=kept, resume=True)
    assert list(rest) == [7, 8, 9, 10, 11]
    assert all(torch.equal(rows, orders[step]) for step, rows in rest.items())
    digests = [
        hashlib.sha1(b"".join(v.numpy().tobytes() for v in state.values())).hexdigest()
        for state in (weights, resumed)
    ]
    assert digests[0] == digests[1]
