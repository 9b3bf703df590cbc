"""Test drawn mask ratios: their distribution, their seeds, and the models that take them."""

import math

import pytest
import torch
from helpers.builds import arch
from mmpretrain.registry import MODELS
from scipy.stats import kstest, truncnorm, uniform

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.masks import HiddenBlocks, RandomShown
from xtra_toolkit.masks.ratio import MaskRatio
from xtra_toolkit.masks.rng import StepGenerator, mask_rng
from xtra_toolkit.testing import check_mask, moved_tokens

MAR = dict(low=0.7, high=1.0, mean=1.0, std=0.25)
EVEN = dict(low=0.2, high=0.6)
GRID = PatchGrid(16, 16, extra=1)
SMALL = PatchGrid(4, 4, (8, 8), extra=1)


def gen(seeds, step=5):
    return StepGenerator(list(seeds), step, "cpu")


def hidden(mask):
    """Return how many tokens each image hides, (B or 1,)."""
    return (~mask.visible).sum(1)


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [
        (MAR, truncnorm((0.7 - 1.0) / 0.25, 0, loc=1.0, scale=0.25)),  # as MAR's code builds it
        (dict(low=0.1, high=0.9, mean=0.4, std=0.1), truncnorm(-3, 5, loc=0.4, scale=0.1)),
        (EVEN, uniform(0.2, 0.4)),
    ],
)
def test_the_distribution_equals_scipys(ratio, expected):
    """Apply Kolmogorov's test to the ratios, and compare how often each number is hidden."""
    ratios = MaskRatio(**ratio).draw(mask_rng(gen(range(20_000))), 20_000).flatten()
    assert ratio["low"] <= ratios.min() and ratios.max() <= ratio["high"]
    assert kstest(ratios.numpy(), expected.cdf).pvalue > 0.01
    counts = hidden(RandomShown(ratio)(PatchGrid(4, 4, extra=1), 20_000, gen(range(20_000))))
    for count in range(17):  # MAR rounds up
        share = expected.cdf(count / 16) - expected.cdf((count - 1) / 16)
        assert float((counts == count).float().mean()) == pytest.approx(share, abs=0.015)


def test_blocks_hide_a_drawn_share_too():
    ratio, seeds = dict(low=0.2, high=0.6), range(64)
    mask = HiddenBlocks(ratio, min_block=4)(GRID, 64, gen(seeds))
    shares = MaskRatio(**ratio).draw(mask_rng(gen(seeds)), 64)[:, 0]
    assert hidden(mask).tolist() == [math.ceil(256 * share) for share in shares.tolist()]
    assert len(hidden(mask).unique()) > 20 and (mask.order[:, 0] == 256).all()
    assert (mask.order.sort(1).values == torch.arange(257)).all()
    fixed = HiddenBlocks(dict(low=0.5, high=0.5), min_block=4)(GRID, 2, gen([1, 2]))
    assert hidden(fixed).tolist() == [128, 128]


@pytest.mark.parametrize("factory", [RandomShown(MAR), HiddenBlocks(EVEN, min_block=4)])
def test_the_ratio_of_an_image_does_not_depend_on_its_batch(factory):
    """Draw it in another batch and another step, as a resumed run may."""
    whole, part = factory(GRID, 4, gen([1, 2, 3, 4])), factory(GRID, 2, gen([3, 4], step=9))
    for field in ("order", "visible"):
        assert torch.equal(getattr(whole, field)[2:], getattr(part, field))


def test_a_batch_shares_its_ratio():
    factory = RandomShown(dict(MAR, per="batch"))
    drawn = [factory(GRID, 3, gen(seeds, step)) for seeds, step in (([1, 2, 3], 5), ([4, 5, 6], 5))]
    assert torch.equal(*(mask.visible for mask in drawn)) and drawn[0].visible.shape == (1, 257)
    counts = torch.cat([hidden(factory(GRID, 1, gen([1], step))) for step in range(600)])
    expected = truncnorm(-1.2, 0, loc=256, scale=64)
    assert kstest(counts - 0.5, expected.cdf).pvalue > 0.001


def model(ratio, mask="RandomShown", **backbone):
    name = "num_hidden" if mask == "HiddenBlocks" else "mask_ratio"
    sizes = dict(min_block=2) if mask == "HiddenBlocks" else {}
    vit = dict(arch=arch(), img_size=32, patch_size=8, with_cls_token=True, mask_tokens=True)
    return MODELS.build(
        dict(
            type="xtra_toolkit.MaskTargetPretrainer",
            mask={"type": f"xtra_toolkit.{mask}", name: ratio, **sizes},
            target_generator=dict(type="xtra_toolkit.MaskedPatches"),
            backbone=dict(type="xtra_toolkit.MaskedViT", **vit | backbone),
            neck=dict(type="xtra_toolkit.ViTDecoder", width=24, depth=1, heads=2),
            head=dict(type="xtra_toolkit.PredictionHead"),
        )
    )


@pytest.mark.parametrize("mask", ["RandomShown", "HiddenBlocks"])
@pytest.mark.parametrize("per", ["image", "batch"])
def test_the_loss_is_the_mean_over_what_is_hidden(mask, per):
    built = model(dict(EVEN, per=per), mask)
    images = torch.randn(6, 3, 32, 32)
    for seed in range(3):
        plan = built.objective(6, images.device, gen(range(seed, seed + 6), seed))
        (prediction,), (goal,) = built.reconstruct(images, plan), built.target_values(images, plan)
        each = (prediction - goal).square().mean(-1)
        counted = plan.hidden[:, 1:].expand(6, -1)  # behind the class token
        torch.testing.assert_close(built._loss(images, plan)["loss"], each[counted].mean())
    assert (len(plan.hidden.sum(1).unique()) > 1) == (per == "image")


def test_no_prediction_sees_a_hidden_patch():
    built = model(MAR)
    for seed in range(2):
        drawn = built.objective.mask(SMALL, 1, torch.Generator().manual_seed(seed))
        shown = torch.zeros(17).bool().scatter(0, drawn.order[0], drawn.visible[0])
        measured = list(moved_tokens(built, seed, most=4))
        assert len(measured) >= 4
        assert all(torch.equal(moved.tokens, shown[:16]) for moved in measured)


@pytest.mark.parametrize(
    "mask",
    [
        dict(type="xtra_toolkit.RandomShown", mask_ratio=MAR),
        dict(type="xtra_toolkit.RandomShown", mask_ratio=dict(EVEN, per="batch"), block_size=2),
        dict(type="xtra_toolkit.HiddenBlocks", num_hidden=EVEN, min_block=1),
    ],
)
def test_the_conformance_kit_takes_them(mask):
    check_mask(mask, dict(type="xtra_toolkit.MaskedPatches"), SMALL, mask_tokens=True)


@pytest.mark.parametrize("per", ["image", "batch"])
def test_without_mask_tokens_they_are_refused(per):
    """An encoder without mask tokens has as many tokens in each step."""
    with pytest.raises(ValueError, match=r"\(backbone.mask_tokens=True\) allows other numbers"):
        model(dict(EVEN, per=per), mask_tokens=False)


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: RandomShown(dict(low=0, high=0.5)), "0 < low <= high <= 1 is required"),
        (lambda: RandomShown(dict(low=0.6, high=0.5)), "from low=0.6 to high=0.5 was given"),
        (lambda: RandomShown(dict(EVEN, mean=0.5)), "give both, and std above 0, or leave both"),
        (lambda: RandomShown(dict(low=0.5, high=1, mean=0, std=0.05)), "practically never reach"),
        (lambda: RandomShown(dict(EVEN, per="token")), "valid: image, batch"),
        (lambda: RandomShown(dict(lowest=0.5)), "cannot be drawn from {'lowest': 0.5}"),
        (lambda: RandomShown(MAR)(PatchGrid(4, 4)), "shows no patch .*, or with a class token"),
        (lambda: HiddenBlocks(MAR)(PatchGrid(8, 8)), "num_hidden=64 .* can hide 1 to 63"),
    ],
)
def test_unsupported_settings_are_refused(build, sentence):
    with pytest.raises(ValueError, match=sentence):
        build()
