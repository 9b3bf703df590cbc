"""The filters against scipy's transform and torchvision's blur; targets made of them."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from frequency_targets import Blur, HighPass, LowPass
from mmpretrain.registry import MODELS
from scipy.fft import dctn
from torchvision.transforms.v2.functional import gaussian_blur

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.masks import BlockCausal, RandomShown, TokenCausal
from xtra_toolkit.objective.compiler import certify_objective
from xtra_toolkit.targets import MaskedPatches, NextBlock, NextToken
from xtra_toolkit.testing import check_target

GRID = PatchGrid(8, 6, (4, 4))
INNER = NextBlock(normalise=False)


@pytest.fixture
def images():
    torch.manual_seed(0)
    return torch.randn(2, 3, 32, 24)


def config():
    """Return the model of the README."""
    text = (Path(__file__).parent / "README.md").read_text()
    space = {}
    exec(re.search(r"```python\n(model = .*?)```", text, re.DOTALL)[1], space)
    return space["model"]


def spectrum(images):
    """Compute the spectrum of each image, and the frequency of each coefficient, by scipy."""
    waves = torch.tensor(dctn(images.numpy(), axes=(-2, -1), norm="ortho"))
    down, across = torch.arange(32) / 64, torch.arange(24) / 48
    return waves, (down[:, None] ** 2 + across[None] ** 2).sqrt()


@pytest.mark.parametrize("cutoff", [1 / 32, 0.11, 0.5])
def test_low_pass_removes_frequencies_above_the_cutoff_and_keeps_the_others(images, cutoff):
    waves, frequency = spectrum(images)
    kept, _ = spectrum(LowPass(INNER, cutoff).filter(images))
    above = frequency > cutoff
    assert above.any() and waves[..., above].abs().max() > 1
    assert kept[..., above].abs().max() < 1e-5
    torch.testing.assert_close(kept[..., ~above], waves[..., ~above], rtol=0, atol=1e-5)


def test_low_and_high_pass_add_up_to_the_image(images):
    low, high = (kind(INNER, 0.1).filter(images) for kind in (LowPass, HighPass))
    torch.testing.assert_close(low + high, images, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("period", "gain"), [(16, 1), (8, 0)])
def test_a_wave_is_kept_unchanged_or_removed(period, gain):
    """Filter waves of 16 and of 8 pixels with a cutoff of 1/10 cycle per pixel."""
    wave = torch.cos(2 * math.pi / period * (torch.arange(32) + 0.5)).expand(1, 3, 24, 32)
    torch.testing.assert_close(LowPass(INNER, 0.1).filter(wave), gain * wave, rtol=0, atol=1e-5)


def test_the_blur_equals_torchvisions_away_from_the_edges(images):
    """Compare away from the edges, where torchvision mirrors differently (kernel of 6 sigma)."""
    ours = Blur(INNER, 1.25).filter(images)
    theirs = gaussian_blur(images, [15, 15], [1.25, 1.25])
    torch.testing.assert_close(ours[..., 8:-8, 8:-8], theirs[..., 8:-8, 8:-8], rtol=0, atol=1e-3)
    assert (ours - images).abs().max() > 1


def test_the_mean_is_kept(images):
    for target in (LowPass(INNER, 1 / 32), Blur(INNER, 3)):
        torch.testing.assert_close(target.filter(images).mean((-2, -1)), images.mean((-2, -1)))


def test_the_filter_is_not_run_in_half_precision(images):
    target = LowPass(INNER, 0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = target.values(images, GRID)
    assert inside.dtype == torch.float32 and torch.equal(inside, target.values(images, GRID))


@pytest.mark.parametrize(
    ("mask", "inner"),
    [(TokenCausal(), NextToken()), (BlockCausal(2), NextBlock()), (RandomShown(), MaskedPatches())],
)
def test_any_target_keeps_its_links_and_predicts_the_filtered_image(mask, inner, images):
    target = LowPass(inner, 0.1)
    objective, plain = certify_objective(mask, target, GRID), certify_objective(mask, inner, GRID)
    for ours, theirs in zip(objective.links, plain.links, strict=True):
        assert torch.equal(ours.source_positions, theirs.source_positions)
        assert torch.equal(ours.target_positions, theirs.target_positions)
    assert objective.bounds.num_computed == plain.bounds.num_computed and target.width(GRID) == 48
    values = target.values(images, GRID)
    assert torch.equal(GRID.unpatchify(values), target.filter(images))
    variance, mean = torch.var_mean(target.normalise(values), -1)
    assert mean.abs().max() < 1e-5 and (variance - 1).abs().max() < 0.01


def test_a_filtered_target_depends_on_its_neighbours_and_no_prediction_sees_its_pixels():
    """Measure which pixels change the target, and which change the prediction."""
    model = MODELS.build(config())
    model.init_weights()
    images = torch.randn(1, 3, 32, 32, requires_grad=True)
    plan, grid = model.plan(images), model.backbone.grid
    goal, out = model.target_values(images, plan)[0][0, 4], model.reconstruct(images, plan)[0][0, 4]
    light, seen = (
        grid.patchify(torch.autograd.grad(x.square().sum(), images)[0])[0].abs().sum(-1) > 0
        for x in (goal, out)
    )
    target = plan.groups[0].tokens[0, 4]
    assert light.all() and not seen[target].any() and seen.sum() == 5 * 4


def test_the_readme_trains():
    torch.manual_seed(0)
    model = MODELS.build(config())
    model.init_weights()
    images, losses = torch.randn(4, 3, 32, 32), []
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    for _ in range(12):
        losses.append(model.loss(images)["loss"])
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.8 * losses[0]


def test_a_model_on_the_meta_device_computes_its_target_values():
    """`xtra show` builds a model on the meta device."""
    with torch.device("meta"):
        model = MODELS.build(config())
    assert model.loss(torch.empty(2, 3, 32, 32, device="meta"))["loss"].is_meta


@pytest.mark.parametrize("cutoff", [0, -0.1, 16])
@pytest.mark.parametrize("kind", [LowPass, HighPass])
def test_invalid_cutoffs_are_refused(kind, cutoff):
    with pytest.raises(ValueError, match=rf"{kind.__name__} was given cutoff={cutoff}; it is in"):
        kind(INNER, cutoff)


def test_filters_that_remove_everything_are_refused():
    with pytest.raises(ValueError, match=r"only the mean of an image of 32×24 px.*0\.015625"):
        certify_objective(BlockCausal(2), LowPass(INNER, 0.01), GRID)
    with pytest.raises(ValueError, match="sigma=0; it is in pixels, above 0"):
        Blur(INNER, 0)
    with pytest.raises(ValueError, match=r"unknown target .*NextDream"):
        LowPass(dict(type="xtra_toolkit.NextDream"), 0.1)


@pytest.mark.parametrize("kind", [dict(type="LowPass"), dict(type="HighPass"), dict(type="Blur")])
def test_filtered_targets_pass_check_target(kind):
    """Check the contract with local = False: a token's values depend on its neighbours."""
    knob = dict(sigma=2) if kind["type"] == "Blur" else dict(cutoff=0.1)
    target = kind | knob | dict(target=dict(type="xtra_toolkit.NextBlock"))
    check_target(target, dict(type="xtra_toolkit.BlockCausal", block_size=2))


def test_the_certificate_says_that_neighbours_may_be_seen():
    target = LowPass(dict(type="xtra_toolkit.NextToken"), 0.1)
    certificate = certify_objective(BlockCausal(1), target, GRID).certificate
    assert "the values of a target depend on pixels of other tokens, which the" in certificate


def test_class_ids_stay_class_ids_behind_a_filter(tmp_path):
    """A filter in front of iGPT's target: its loss is the inner target's."""
    np.save(tmp_path / "c.npy", np.random.default_rng(0).uniform(-1, 1, (8, 3)))
    inner = dict(type="xtra_toolkit.NextColour", clusters=str(tmp_path / "c.npy"))
    target = dict(type="xtra_toolkit.LowPass", target=inner, cutoff=0.2)
    model = dict(
        type="xtra_toolkit.MaskTargetPretrainer",
        mask=dict(type="xtra_toolkit.TokenCausal"),
        target_generator=target,
        backbone=dict(
            type="xtra_toolkit.MaskedViT",
            arch=dict(embed_dims=24, num_layers=1, num_heads=2, feedforward_channels=48),
            img_size=4,
            patch_size=1,
        ),
        neck=None,
        head=dict(type="xtra_toolkit.PredictionHead", loss="cross_entropy"),
    )
    MODELS.build(model).loss(torch.randn(2, 3, 4, 4))["loss"].backward()
    with pytest.raises(ValueError, match="LowPass gives class ids"):
        MODELS.build(model | dict(head=dict(type="xtra_toolkit.PredictionHead")))
