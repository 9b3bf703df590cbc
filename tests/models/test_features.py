"""Test the features of a probed encoder: raster order, sizes, frozen stages, output types."""

import pytest
import torch
from helpers.builds import MASKS, arch, pretrainer, randomise
from mmpretrain.registry import MODELS


def encoder(**options):
    """Build a small MaskedViT with random weights."""
    shape = dict(arch=arch(), img_size=64, patch_size=8, mask=MASKS["block"])
    vit = MODELS.build(dict(type="xtra_toolkit.MaskedViT", **(shape | options)))
    return randomise(vit)


def test_features_are_in_raster_order_whatever_the_order_of_the_mask():
    """Check that a patch changes its own feature, and none of an earlier block."""
    vit, images = encoder(out_type="featmap"), torch.randn(1, 3, 64, 64)
    changed = images.clone()
    changed[..., 24:32, 40:48] += 1  # patch (3, 5), in the block of rows 2-3 and columns 4-5
    moved = (vit(changed)[0] - vit(images)[0]).abs().amax(1)[0] > 0
    assert moved[3, 5] and moved[2, 4]
    assert not moved[:2].any() and not moved[2:4, :4].any()
    assert moved[2:4, 4:].all() and moved[4:].all()


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        (dict(out_type="raw"), (2, 64, 48)),
        (dict(out_type="featmap"), (2, 48, 8, 8)),
        (dict(out_type="avg_featmap"), (2, 48)),
        (dict(out_type="raw", with_cls_token=True, mask=MASKS["bidirectional"]), (2, 65, 48)),
        (dict(out_type="cls_token", with_cls_token=True, mask=MASKS["bidirectional"]), (2, 48)),
    ],
)
def test_out_types(options, shape):
    assert encoder(**options)(torch.randn(2, 3, 64, 64))[0].shape == shape


def test_a_bidirectional_encoder_is_mmpretrains_vit():
    """Check that the same weights give the same features: class token and all layers."""
    options = dict(with_cls_token=True, out_type="raw", out_indices=[0, 1])
    ours = encoder(mask=MASKS["bidirectional"], **options)
    stock = dict(type="mmpretrain.VisionTransformer", arch=arch(), img_size=64, patch_size=8)
    theirs = MODELS.build(stock | dict(out_indices=[0, 1]) | dict(options))
    theirs.load_state_dict(ours.state_dict(), strict=False)
    theirs.eval()
    images = torch.randn(2, 3, 64, 64)
    for mine, reference in zip(ours(images), theirs(images), strict=True):
        torch.testing.assert_close(mine, reference, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("size", [(128, 128), (64, 96), (32, 64)])
def test_another_resolution_at_run_time_and_on_loading_agree(size):
    vit, images = encoder(dynamic_img_size=True), torch.randn(1, 3, *size)
    resized = encoder(img_size=size, dynamic_img_size=True)
    resized.load_state_dict(vit.state_dict())
    torch.testing.assert_close(resized(images)[0], vit(images)[0])


def test_frozen_stages_stay_in_evaluation_mode():
    vit = encoder(drop_path_rate=0.5, frozen_stages=2)
    vit.train()
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(vit(images)[0], vit(images)[0])
    assert not any(p.requires_grad for p in vit.parameters())


def test_pretraining_and_probing_share_the_computed_positions():
    """Check that positions that pretraining computes have the features of the whole image."""
    model = randomise(pretrainer("block", "block"))
    images = torch.randn(2, 3, 64, 64)
    plan = model.plan(images)
    features = model.extract_feat(images)[0]
    torch.testing.assert_close(
        model.backbone.encode(images, plan), features[:, plan.order[0]], atol=1e-5, rtol=1e-5
    )


def test_the_plan_of_a_fixed_mask_is_built_once():
    model, cpu = pretrainer("block", "block"), torch.device("cpu")
    assert model.objective(2, cpu) is model.objective(5, cpu)
    random = pretrainer("prefix", "token").objective
    a, b = (random(2, cpu, torch.Generator().manual_seed(s)) for s in (0, 1))
    assert not torch.equal(a.decoder.kv_lengths, b.decoder.kv_lengths)


def test_random_masks_follow_the_draw_seeds_of_the_samples():
    from mmpretrain.structures import DataSample

    model = pretrainer("prefix", "token")

    def loss_mask(*seeds):
        samples = [DataSample(metainfo=dict(draw_seed=s)) for s in seeds]
        return model.plan(torch.zeros(2, 3, 64, 64), samples).groups[0].loss_mask

    assert torch.equal(loss_mask(3, 4), loss_mask(3, 4)) and not torch.equal(
        loss_mask(3, 4), loss_mask(5, 6)
    )
