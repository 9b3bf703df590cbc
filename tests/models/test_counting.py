"""Test that micro-batches give the loss of the whole batch if it is divided by a count."""

import pytest
import torch
from helpers.builds import AIM, pretrainer, randomise
from mmpretrain.structures import DataSample
from torch.utils.data import Dataset

from xtra_toolkit.data import SeededSamples, SkipsBadImages
from xtra_toolkit.data.seeding import draw_seeds
from xtra_toolkit.data.transforms.loading import unreadable

LOOKING_AHEAD = ("prefix", dict(type="xtra_toolkit.NextToken", look_ahead=2))  # two groups
BLOCKS = dict(type="xtra_toolkit.BlockCausal", block_size=2)
PREFIXED = (dict(type="xtra_toolkit.WithPrefix", mask=BLOCKS), "block")
SEEDS = [dict(draw_seed=seed, step_seed=5) for seed in range(11, 19)]


def gradients(model):
    return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


def accumulated(model, images, count):
    """Return the loss and gradients of a step of ``count`` micro-batches."""
    model.zero_grad()
    size, total = len(images) // count, 0.0
    parts = [slice(start, start + size) for start in range(0, len(images), size)]
    with model.counting(SEEDS[part] for part in parts):
        for part in parts:
            samples = [DataSample(metainfo=seeds) for seeds in SEEDS[part]]
            loss = model.loss(images[part], samples)["loss"] / count
            loss.backward()
            total += float(loss.detach())
    return total, gradients(model)


@pytest.mark.parametrize(("dtype", "tol"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("reduction", ["batch", "image"])
@pytest.mark.parametrize("pair", [AIM, LOOKING_AHEAD, PREFIXED])
def test_accumulating_is_the_joint_batch(pair, reduction, dtype, tol):
    model = pretrainer(*pair, head=dict(hidden=64, reduction=reduction))
    model = randomise(model).train().to(dtype)
    images = torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(0), dtype=dtype)
    model.loss(images, [DataSample(metainfo=seeds) for seeds in SEEDS])["loss"].backward()
    whole = gradients(model)
    loss = float(model.loss(images, [DataSample(metainfo=s) for s in SEEDS])["loss"].detach())
    for count in (2, 4, 8):
        total, grads = accumulated(model, images, count)
        assert total == pytest.approx(loss, rel=tol)
        for name, grad in whole.items():
            assert (grads[name] - grad).norm() <= tol * grad.norm(), name


def test_outside_of_a_step_each_batch_counts_for_itself():
    model = randomise(pretrainer(*AIM)).train()
    images, samples = torch.ones(2, 3, 64, 64), [DataSample(metainfo=s) for s in SEEDS[:2]]
    alone = model.loss(images, samples)["loss"]
    with model.counting([SEEDS[:2], SEEDS[2:4]]):
        within = model.loss(images, samples)["loss"]
        unseeded = model.plan(images)  # of which nothing can be known before
    assert all(group.count is None for group in unseeded.groups)
    assert abs(within / alone - 1) > 1e-3
    assert torch.equal(model.loss(images, samples)["loss"], alone)


def test_masks_that_predict_as_much_in_each_image_are_not_drawn_twice():
    for pair in (("shown", "masked"), ("block_orders", "block"), ("token", "token")):
        model = pretrainer(*pair)
        model.objective.mask = None
        with model.counting([SEEDS]):
            pass


class Images(Dataset):
    def __len__(self):
        return 9

    def __getitem__(self, index):
        if index % 2:
            raise unreadable(f"{index}.jpg", OSError("made up"))
        return dict(data_samples=DataSample(metainfo=dict(index=index)))


class Skipping(SeededSamples, SkipsBadImages, Images):
    skips_bad = True


def test_a_bad_image_keeps_the_seeds_of_its_place():
    key = (3, 1, 5, 2)
    sample = Skipping()[key]["data_samples"]
    assert sample.index != 5 and sample.skipped_images
    assert draw_seeds(*key) == {name: sample.get(name) for name in ("draw_seed", "step_seed")}
