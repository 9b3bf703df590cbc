"""Test that two processes train like one: data, masks, losses and gradients, also when resumed."""

import pytest
import torch
from helpers.builds import AIM, MAE, XTRA, pretrainer, randomise
from helpers.processes import on_two
from helpers.tiny_runs import PAIRS, run
from mmengine.model import MMDistributedDataParallel
from mmpretrain.structures import DataSample

DDP = dict(
    launcher="pytorch",
    cfg=dict(model_wrapper_cfg=dict(type="MMDistributedDataParallel", device_ids=None)),
)


def joined(first, second):
    """Return the images and masks of both ranks for each step, in the order of the global batch."""
    return {
        step: tuple(one + other for one, other in zip(first[step], second[step], strict=True))
        for step in first
    }


def _begin(rank, folder, pair, options):
    _, seen = run(folder / "two", pair, **options, **DDP)
    return seen.steps, seen.losses


def relative(one, other):
    return max(abs(one[step] - other[step]) / abs(other[step]) for step in one)


@pytest.mark.parametrize("pair", PAIRS)
def test_a_run_can_begin_on_two_processes_and_resume_on_one(pair, tmp_path):
    options = dict(drop_path=0.0)
    accumulated = dict(options, batch_size=2)  # twice on two processes, four times on one
    (first, losses), (second, also) = on_two(_begin, tmp_path, pair, accumulated)
    _, whole = run(tmp_path / "whole", pair, batch_size=8, **options)
    both = joined(first, second)
    assert both == whole.steps and losses == also
    assert relative(losses, whole.losses) <= 1e-5
    assert all(len(set(images)) == 8 for images, _ in both.values())
    if pair in ("AIM", "MAE"):  # each image has its own mask; block orders are one for the step
        assert all(len(set(masks)) > 2 for _, masks in both.values())
        assert all(first[step][1] != second[step][1] for step in both)
    else:
        assert all(len(set(masks)) <= 1 for _, masks in both.values())
    if pair != "XTRA":
        assert len({masks for _, masks in both.values()}) > 2

    kept = str(tmp_path / "two" / "iter_7.pth")
    _, rest = run(tmp_path / "rest", pair, load_from=kept, resume=True, **accumulated)
    assert rest.steps == {step: whole.steps[step] for step in range(7, 15)}
    assert relative(rest.losses, whole.losses) <= 1e-5


def test_a_run_with_drop_path_can_resume_on_one_process_with_the_same_batch_size(tmp_path):
    options = dict(drop_path=0.1)
    (_, losses), _ = on_two(_begin, tmp_path, "AIM", options)
    kept = str(tmp_path / "two" / "iter_7.pth")
    _, rest = run(tmp_path / "rest", "AIM", load_from=kept, resume=True, **options)  # 4 × 2
    assert relative(rest.losses, losses) <= 1e-5


COMPOSITIONS = dict(
    XTRA=XTRA, AIM=AIM, MAE=MAE, orders=("block_orders", "block"), iGPT=("token", "token")
)


def batch():
    g = torch.Generator().manual_seed(0)
    seeds = [DataSample(metainfo=dict(draw_seed=s, step_seed=5)) for s in range(11, 19)]
    return torch.randn(8, 3, 64, 64, generator=g), seeds


def stepped(model, images, samples):
    """Make two steps, so that DistributedDataParallel reports parameters without a gradient."""
    for _ in range(2):
        model.zero_grad()
        loss = model(images, samples, mode="loss")["loss"]
        loss.backward()
    module = getattr(model, "module", model)
    return loss.detach(), {n: p.grad for n, p in module.named_parameters() if p.requires_grad}


def built(name):
    return randomise(pretrainer(*COMPOSITIONS[name])).train()


def _half(rank, folder, name):
    images, samples = batch()
    mine = slice(4 * rank, 4 * rank + 4)
    model = MMDistributedDataParallel(built(name))
    (group, *_) = model.module.plan(images[mine], samples[mine]).groups
    loss_mask = 0 if group.loss_mask is None else int(group.loss_mask.expand(4, -1).sum())
    return *stepped(model, images[mine], samples[mine]), loss_mask


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_loss_and_averaged_gradients_equal_those_of_the_joint_batch(name, tmp_path):
    """No composition needs find_unused_parameters; the ranks of AIM have different counts."""
    loss, grads = stepped(built(name), *batch())
    (one, first, few), (two, second, many) = on_two(_half, tmp_path, name)
    assert few != many or name != "AIM"
    torch.testing.assert_close((one + two) / 2, loss, rtol=1e-5, atol=0)
    assert grads.keys() == first.keys() and all(grad is not None for grad in grads.values())
    for key, grad in grads.items():
        assert torch.equal(first[key], second[key])
        assert (first[key] - grad).norm() <= 1e-5 * grad.norm(), key
