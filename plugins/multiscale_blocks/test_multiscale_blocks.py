"""Blocks by hand, every stage against measured gradients, and the curriculum in a Runner."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from multiscale_blocks import BlockSizeCurriculum, MultiscaleBlocks, NestedBlocks

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.masks import BlockCausal
from xtra_toolkit.objective.compiler import certify_objective
from xtra_toolkit.targets import NextBlock, NextToken
from xtra_toolkit.testing import check_mask

GRID = PatchGrid(4, 4, (2, 2))
IN_BLOCKS = [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15]


def readme(blocks):
    """Run the first code blocks of the README, and return what they define."""
    text = (Path(__file__).parent / "README.md").read_text()
    space = {}
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL)[:blocks]:
        exec(code, space)
    return space


def build(mask=None):
    config = readme(1)["model"]
    torch.manual_seed(0)
    model = MODELS.build(config | (dict(mask=mask) if mask else {}))
    model.init_weights()
    return model


def test_coarse_to_fine_by_hand():
    mask = MultiscaleBlocks([2, 1])(GRID).check(GRID)
    assert mask.order.tolist() == IN_BLOCKS
    assert mask.step.tolist() == [0] * 4 + [1] * 4 + list(range(2, 10))
    assert torch.equal(mask.unit, mask.step)


@pytest.mark.parametrize("grid", [PatchGrid(8, 8), PatchGrid(4, 12)])
def test_one_size_is_block_causal(grid):
    ours, theirs = MultiscaleBlocks([4])(grid), BlockCausal(4)(grid)
    assert torch.equal(ours.order, theirs.order) and torch.equal(ours.step, theirs.step)


@pytest.mark.parametrize("sizes", [[4, 2, 1], [1, 2, 4], [4, 1, 2, 4, 4, 4, 4, 1]])
def test_every_token_stands_once_in_blocks_of_the_sizes_asked_for(sizes):
    grid = PatchGrid(8, 16)
    mask = MultiscaleBlocks(sizes)(grid).check(grid)
    assert sorted(mask.order.tolist()) == list(range(128))
    lengths = mask.step.unique_consecutive(return_counts=True)[1].tolist()
    sides = [round(n**0.5) for n in lengths]
    assert [a for a, b in zip(sides, [0, *sides], strict=False) if a != b] == [
        a for a, b in zip(sizes, [0, *sizes], strict=False) if a != b
    ]


def test_a_head_for_each_pair_of_sizes_and_no_dead_work():
    model = build()
    sizes = [(p[0].in_features // 32, p[2].out_features // 48) for p in model.head.predictors]
    assert sizes == [(16, 16), (16, 4), (4, 4), (4, 1), (1, 1)]
    assert model.objective.bounds.num_computed == 63  # all but the last block, of one token


def test_nested_stages_by_hand():
    stages = NestedBlocks([1, 2, 4]).extremes(GRID)
    assert all(mask.order.tolist() == IN_BLOCKS for mask in stages)
    assert all(mask.unit.tolist() == [0] * 16 for mask in stages)
    assert stages[0].step.tolist() == list(range(16))
    assert stages[1].step.tolist() == [i // 4 for i in range(16)]
    assert stages[2].step.tolist() == [0] * 16


def test_the_coarsest_stage_is_block_causal_and_a_finer_one_sees_less():
    grid = PatchGrid(8, 12)
    fine, middle, coarse = (
        mask.attention_mask()[0] for mask in NestedBlocks([1, 2, 4]).extremes(grid)
    )
    assert not (fine & ~middle).any() and not (middle & ~coarse).any()
    mask, xtra = NestedBlocks([1, 2, 4])(grid), BlockCausal(4)(grid)
    assert torch.equal(mask.step, xtra.step)
    assert torch.equal(mask.order.view(6, 16).sort(-1)[0], xtra.order.view(6, 16).sort(-1)[0])


@pytest.mark.parametrize(
    "mask",
    [dict(type="xtra_toolkit.MultiscaleBlocks", sizes=[2, 4, 1])]
    + [dict(type="xtra_toolkit.NestedBlocks", sizes=s) for s in ([2, 1, 4], [4, 1, 2], [4, 2, 1])],
)
def test_no_pixel_of_a_target_moves_its_prediction_and_the_seen_ones_do(mask):
    """Measured, under every size as the last stage."""
    model = build(mask)
    images = torch.randn(1, 3, 32, 32, requires_grad=True)
    plan = model.plan(images)
    drawn = model.objective.mask(model.backbone.grid)
    for group, outs in zip(plan.groups, model.reconstruct(images, plan), strict=True):
        for g in range(0, outs.shape[1], 7):
            (grad,) = torch.autograd.grad(outs[0, g].square().sum(), images, retain_graph=True)
            moved = model.backbone.grid.patchify(grad)[0].abs().sum(-1) > 0
            assert not moved[group.tokens[0, g]].any()
            seen = drawn.step <= drawn.step[group.source_positions[0, g].max()]
            assert torch.equal(moved[drawn.order], seen)


def test_stages_share_all_shapes_and_the_dead_work_and_differ_in_what_is_seen():
    model = build(readme(2)["model"]["mask"])
    images = torch.randn(2, 3, 32, 32)
    losses, (features,) = [], model.extract_feat(images)
    for stage in range(3):
        model.objective.mask.stage = stage
        plan = model.plan(images)
        assert plan.num_computed == 48 and [g.tokens.shape for g in plan.groups] == [(1, 3, 16)]
        losses.append(model.loss(images)["loss"].item())
        probed = model.objective.mask.for_features(model.backbone.grid)  # the last, in any stage
        assert torch.equal(probed.step, torch.arange(64) // 16)
        torch.testing.assert_close(model.extract_feat(images)[0], features)
    assert len(set(losses)) == 3


@pytest.mark.parametrize("mask", ["MultiscaleBlocks", "NestedBlocks"])
def test_the_loss_falls(mask):
    model, images, losses = build(readme(1 + (mask == "NestedBlocks"))["model"]["mask"]), [], []
    images = torch.randn(4, 3, 32, 32)
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    for _ in range(12):
        losses.append(model.loss(images)["loss"])
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.95 * losses[0]


def runner_of(epoch=0, max_epochs=30, **mask):
    model = SimpleNamespace(objective=SimpleNamespace(mask=NestedBlocks(**mask)))
    logger = SimpleNamespace(info=lambda text: None)
    return SimpleNamespace(model=model, epoch=epoch, max_epochs=max_epochs, logger=logger)


@pytest.mark.parametrize(("epoch", "stage"), [(0, 0), (9, 0), (10, 1), (19, 1), (20, 2), (29, 2)])
def test_the_stage_follows_from_the_epoch_alone(epoch, stage):
    """Check a hook that saw no earlier epoch, as after a resume."""
    (config,) = readme(2)["custom_hooks"]
    runner, hook = runner_of(epoch, sizes=[1, 2, 4]), HOOKS.build(config)
    hook.before_train(runner)
    hook.before_train_epoch(runner)
    assert runner.model.objective.mask.stage == stage


def test_a_runner_goes_through_the_stages(tmp_path):
    model, stages = build(readme(2)["model"]["mask"]), []
    model.head.register_forward_pre_hook(lambda *_: stages.append(model.objective.mask.stage))
    image = dict(inputs=torch.zeros(3, 32, 32), data_samples=DataSample())
    Runner(
        model=model,
        work_dir=str(tmp_path),
        train_dataloader=dict(
            dataset=[image] * 4,
            batch_size=2,
            sampler=dict(type="mmengine.DefaultSampler"),
            collate_fn=dict(type="mmengine.default_collate"),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=3),
        optim_wrapper=dict(optimizer=dict(type="torch.optim.SGD", lr=0.1)),
        default_hooks=dict(checkpoint=None, logger=None),
        custom_hooks=[dict(type="xtra_toolkit.BlockSizeCurriculum", milestones=[1, 2])],
        log_level="WARNING",
    ).train()
    assert stages == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("sizes", [[], [4, 3], [0, 4], [6, 4, 2]])
@pytest.mark.parametrize("mask", [MultiscaleBlocks, NestedBlocks])
def test_sizes_that_do_not_divide_each_other_are_refused(mask, sizes):
    with pytest.raises(ValueError, match=rf"{mask.__name__} was given .*each dividing the next"):
        mask(sizes)


def test_masks_that_do_not_fit_the_grid_are_refused():
    with pytest.raises(ValueError, match=r"3 sizes, and .* has 1 cell\(s\) of 4×4 tokens"):
        MultiscaleBlocks([4, 2, 1])(GRID)
    for mask in (MultiscaleBlocks([4, 2]), NestedBlocks([2, 4])):
        with pytest.raises(ValueError, match="do not tile a grid of 6×8"):
            mask(PatchGrid(6, 8))
        with pytest.raises(ValueError, match="no place for a token without pixels"):
            mask(PatchGrid(8, 8, extra=1))
    with pytest.raises(ValueError, match="can see patch"):  # stage 2, though stage 0 would do
        certify_objective(NestedBlocks([2, 1]), NextToken(), GRID)
    assert certify_objective(NestedBlocks([2, 1]), NextBlock(), GRID).bounds.num_computed == 12


def test_curricula_that_do_not_fit_the_mask_are_refused():
    for milestones in ([20, 10], [0, 10], [10, 10]):
        with pytest.raises(ValueError, match="epochs from 1 on, each later"):
            BlockSizeCurriculum(milestones)
    with pytest.raises(ValueError, match=r"needs the mask NestedBlocks with 2 sizes.*\[1, 2, 4\]"):
        BlockSizeCurriculum([10]).before_train(runner_of(sizes=[1, 2, 4]))
    with pytest.raises(ValueError, match="begins at epoch 30, and training has 30"):
        BlockSizeCurriculum([30]).before_train(runner_of(sizes=[1, 2]))
    runner = runner_of(sizes=[1])
    runner.model.objective.mask = BlockCausal(2)
    with pytest.raises(ValueError, match="the model's is BlockCausal"):
        BlockSizeCurriculum([10]).before_train(runner)


@pytest.mark.parametrize("mask", ["MultiscaleBlocks", "NestedBlocks"])
def test_they_keep_the_contract_of_a_mask(mask):
    mask = dict(type=f"xtra_toolkit.{mask}", sizes=[1, 2])
    check_mask(mask, dict(type="xtra_toolkit.NextBlock"))
