"""Test mask tokens in the encoder: what they let through, what is refused, and what is saved."""

from dataclasses import replace

import pytest
import torch
from helpers.builds import MASKS, arch, pretrainer, randomise
from mmengine.runner import load_checkpoint
from mmpretrain.registry import MODELS

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.masks import Bidirectional, Mask, MaskFactory, RandomShown, mask_rng
from xtra_toolkit.models.layers import gather_tokens
from xtra_toolkit.objective.compiler import certify_objective
from xtra_toolkit.registry import MASKS as REGISTRY
from xtra_toolkit.targets import MaskedPatches
from xtra_toolkit.testing import check_mask, moved_tokens

GRID = PatchGrid.of(32, 8)
CPU = torch.device("cpu")


class Coins(MaskFactory):
    """Hide each token by the toss of a coin, so that images hide different numbers of tokens."""

    def __call__(self, grid, batch=1, generator=None):
        visible = mask_rng(generator).rand(batch, grid.tokens) < 0.5
        visible[:, 0] = True
        order = torch.arange(grid.tokens, device=visible.device)
        return Mask(order, torch.zeros_like(order), visible=visible, context=visible)

    def for_features(self, grid):
        return Bidirectional()(grid)


class Line(MaskFactory):
    """Let each position attend to its neighbours; token 3 is hidden, and visible in another place.

    Positions hold tokens 0 1 2 3 4 3 5 6; the first 3 and the 4 are hidden.
    """

    random = False

    def __call__(self, grid, batch=1, generator=None):
        order = torch.tensor([0, 1, 2, 3, 4, 3, 5, 6])
        hidden = torch.tensor([0, 0, 0, 1, 1, 0, 0, 0]).bool()
        near = lambda q, k: (q - k).abs() <= 1  # noqa: E731
        return Mask(order, torch.zeros_like(order), visible=~hidden, attend=near)

    def for_features(self, grid):
        return Bidirectional()(grid)


class Twice(RandomShown):
    """Make two masks of each image."""

    def __call__(self, grid, batch=1, generator=None):
        mask = super().__call__(grid, batch, generator)
        return replace(mask, order=mask.order.repeat(2, 1), masks_per_image=2)


@pytest.fixture(autouse=True)
def registered():
    for factory in (Coins, Line):
        REGISTRY.register_module(module=factory, force=True)
    yield
    for factory in (Coins, Line):
        REGISTRY.module_dict.pop(factory.__name__)


def build(mask, neck=None, **backbone):
    """Build a pretrainer whose encoder holds mask tokens; by default it has no decoder."""
    model = dict(
        type="xtra_toolkit.MaskTargetPretrainer",
        mask=MASKS[mask] if isinstance(mask, str) else mask,
        target_generator=dict(type="xtra_toolkit.MaskedPatches"),
        backbone=dict(
            type="xtra_toolkit.MaskedViT",
            **dict(arch=arch(), img_size=32, patch_size=8, mask_tokens=True) | backbone,
        ),
        neck=neck,
        head=dict(type="xtra_toolkit.PredictionHead"),
    )
    return MODELS.build(model)


DECODER = dict(type="xtra_toolkit.ViTDecoder", width=24, depth=1, heads=2)


@pytest.mark.parametrize("neck", [None, DECODER])
@pytest.mark.parametrize(
    ("mask", "vit"),
    [("shown", {}), ("shown", dict(with_cls_token=True)), (dict(type="Coins"), {})],
)
def test_a_prediction_sees_the_visible_tokens_and_no_pixel_of_a_hidden_one(mask, vit, neck):
    model = build(mask, neck, **vit)
    n = 16 + len(vit)
    assert f"{n} of {n} positions computed, {n} in the encoder, the hidden ones as mask tokens" in (
        model.objective.certificate
    )
    for seed in range(2):
        drawn = model.objective.mask(model.backbone.grid, 1, torch.Generator().manual_seed(seed))
        order, visible = torch.atleast_2d(drawn.order)[0], torch.atleast_2d(drawn.visible)[0]
        shown = torch.zeros(n).bool()
        shown[order[visible]] = True
        measured = list(moved_tokens(model, seed))
        assert len(measured) == (~visible).sum() > 0
        for moved in measured:
            assert not shown[moved.targets].any()
            assert torch.equal(moved.tokens, shown[:16])


def test_the_mask_token_has_the_position_of_the_token_that_it_stands_for():
    model = randomise(build(dict(type="Coins")))
    plan = model.objective(3, CPU, torch.Generator().manual_seed(0))
    images, vit = torch.randn(3, 3, 32, 32), model.backbone
    embedded = vit.embed(images, plan.encoded_tokens, vit.grid, plan.hidden)
    expected = vit.mask_token + gather_tokens(vit.pos_embed, plan.order)
    assert plan.hidden.sum(1).unique().numel() > 1  # images hide different numbers
    hidden = plan.hidden[..., None]
    assert torch.equal(embedded.where(hidden, 0), expected.where(hidden, 0))
    whole = vit.embed(images, plan.encoded_tokens, vit.grid)
    assert torch.equal(embedded.where(~hidden, 0), whole.where(~hidden, 0))


def test_the_loss_is_the_mean_over_hidden_tokens_of_all_images():
    model = randomise(build(dict(type="Coins")))
    images, plan = torch.randn(3, 3, 32, 32), model.objective(3, CPU)
    (prediction,), (goal,) = model.reconstruct(images, plan), model.target_values(images, plan)
    each = (prediction - goal).square()[plan.hidden]  # the order is raster order
    torch.testing.assert_close(model._loss(images, plan)["loss"], each.mean())


@pytest.mark.parametrize(("layers", "leaks"), [(1, False), (2, True)])
def test_a_mask_token_carries_a_leak_as_far_as_the_encoder_is_deep(layers, leaks):
    """Position 3 hides token 3 and sees position 4, a mask token, which sees token 3 at 5."""
    given = Line(), MaskedPatches(), GRID, (layers, 0)
    assert certify_objective(*given)  # hidden tokens left out, no decoder: nothing is connected
    if not leaks:
        assert certify_objective(*given, mask_tokens=True)
        return
    with pytest.raises(ValueError, match=r"position 3 can see patch \(0, 3\) through position 5"):
        certify_objective(*given, mask_tokens=True)


def test_gradients_agree_with_the_reach_of_a_predicate():
    """In one layer position 3 sees position 2, and position 4 sees position 5."""
    model = build(dict(type="Line"), arch=arch(depth=1))
    moved = [m.tokens.nonzero().flatten().tolist() for m in moved_tokens(model, 0)]
    assert moved == [[2], [3]]


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"other numbers|as many tokens in each image"):
        build(dict(type="Coins"), DECODER, mask_tokens=False)
    with pytest.raises(ValueError, match=r"or backbone.mask_tokens=True for hidden tokens"):
        build("shown", None, mask_tokens=False)
    with pytest.raises(ValueError, match=r"makes 2 masks of an image, .* need a pass for each"):
        certify_objective(Twice(), MaskedPatches(), GRID, mask_tokens=True)
    causal = dict(type="xtra_toolkit.BlockCausal", block_size=2)
    with pytest.raises(ValueError, match="BlockCausal hides no tokens, and the encoder has mask_"):
        pretrainer(causal, "block", mask_tokens=True)


def test_a_mask_that_predicts_what_it_shows_is_refused():
    class Shows(Coins):
        def __call__(self, *args):
            return replace(super().__call__(*args), context=None)

    with pytest.raises(ValueError, match=r"hides other positions in each image; .* `context`"):
        certify_objective(Shows(), MaskedPatches(), GRID, mask_tokens=True)


def test_the_conformance_kit_takes_masks_of_mask_tokens():
    pair = dict(type="Coins"), dict(type="xtra_toolkit.MaskedPatches")
    check_mask(*pair, mask_tokens=True)
    with pytest.raises(AssertionError, match="`visible` must hold as many tokens in each image"):
        check_mask(*pair)


def test_probes_leave_the_mask_token_out(tmp_path):
    """The checkpoint loads into an encoder without one, and without a warning."""
    model = randomise(build("shown"))
    torch.save(dict(state_dict=model.state_dict()), tmp_path / "it.pth")
    init = dict(type="Pretrained", checkpoint=str(tmp_path / "it.pth"), prefix="backbone.")
    vit = dict(type="xtra_toolkit.MaskedViT", arch=arch(), img_size=32, patch_size=8)
    probe = MODELS.build(dict(vit, init_cfg=init)).eval()
    probe.init_weights()
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(probe(images)[0], model.backbone(images)[0])
    again = build("shown")
    load_checkpoint(again, str(tmp_path / "it.pth"))
    assert torch.equal(again.backbone.mask_token, model.backbone.mask_token)
    with pytest.raises(ValueError, match=r"'mask_token'\. mask_tokens is another in this config"):
        MODELS.build(vit | dict(mask_tokens=True)).load_state_dict(probe.state_dict())


def test_the_token_is_drawn():
    model = build("shown", arch=arch(width=384))
    model.init_weights()
    assert model.backbone.mask_token.std().item() == pytest.approx(0.02, rel=0.1)
