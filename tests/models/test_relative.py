"""Test relative positions: against MMPretrain's BEiTViT, and under every pattern."""

from dataclasses import replace

import pytest
import torch
from helpers.attention_calls import qkv
from helpers.builds import AIM, MASKS, XTRA, arch, pretrainer, randomise
from helpers.folders import write_checkpoint
from mmpretrain.registry import MODELS

import xtra_toolkit
from xtra_toolkit.attention import Pattern, attention
from xtra_toolkit.models.layers import gather_tokens
from xtra_toolkit.visualization.predictions.continuation import Continuation
from xtra_toolkit.weights.mmpretrain import to_mmpretrain

SHAPE = dict(arch=arch(), img_size=(32, 48), patch_size=8)
RELATIVE = dict(type="xtra_toolkit.MaskedViT", positions="relative", **SHAPE)


def relative(mask="bidirectional", **changes):
    torch.manual_seed(0)
    return randomise(MODELS.build(RELATIVE | dict(mask=MASKS[mask]) | changes), scale=0.3)


def test_features_are_those_of_mmpretrains_beit():
    vit = relative(with_cls_token=True).double()
    theirs = MODELS.build(
        dict(
            type="mmpretrain.BEiTViT",
            bias=True,
            final_norm=True,
            out_type="raw",
            use_rel_pos_bias=False,
            use_shared_rel_pos_bias=True,
            layer_scale_init_value=0.0,
            **SHAPE,
        )
    )
    state = {n: p for n, p in vit.named_parameters()}
    missing, unexpected = theirs.load_state_dict(state, strict=False)
    assert not unexpected and missing == ["rel_pos_bias.relative_position_index"]
    images = torch.randn(2, 3, 32, 48).double()
    theirs.double().train(False)
    expected = theirs(images)[0]
    torch.testing.assert_close(vit(images)[0], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", ["full", "causal", "staircase", "dense"])
@pytest.mark.parametrize("rows", [None, torch.tensor([[1, 3, 4]]), torch.tensor([[0, 1], [2, 5]])])
def test_sdpa_equals_eager_with_biases(kind, rows):
    (q, k, v), _ = qkv(6)
    lengths = torch.tensor([[2, 2, 4, 4, 6, 6], [1, 2, 3, 6, 6, 6]])
    mask = torch.eye(6, dtype=torch.bool)[None] | torch.rand(1, 6, 6).gt(0.5)
    fields = dict(staircase=dict(kv_lengths=lengths), dense=dict(mask=mask)).get(kind, {})
    bias = torch.randn(2, q.shape[2], 6, 6)
    pattern = Pattern(kind, 6, score_bias=bias, **fields)
    whole = attention(q, k, v, pattern, "eager")
    assert not torch.allclose(whole, attention(q, k, v, replace(pattern, score_bias=None), "eager"))
    torch.testing.assert_close(attention(q, k, v, pattern), whole, rtol=1e-5, atol=1e-5)
    if rows is not None:
        some = gather_tokens(q.flatten(2), rows).unflatten(2, q.shape[2:])
        expected = gather_tokens(whole.flatten(2), rows).unflatten(2, q.shape[2:])
        for backend in ("eager", "sdpa"):
            out = attention(some, k, v, pattern.rows(rows), backend)
            torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match=r"'matmul' cannot serve: relative .* one of eager, sdpa$"):
        attention(q, k, v, pattern, "matmul")


@pytest.mark.parametrize("pair", [XTRA, AIM, ("shown", "masked"), ("block_orders", "block")])
def test_every_objective_trains_with_them(pair):
    """Check that recomputed layers have the same gradients, those of the biases included."""
    images, found = torch.randn(2, 3, 64, 64), []
    for with_cp in (False, True):
        model = pretrainer(*pair, positions="relative", with_cp=with_cp)
        randomise(model).train()
        plan = model.objective(2, images.device, torch.Generator().manual_seed(0))
        model._loss(images, plan)["loss"].backward()
        found.append({n: p.grad for n, p in model.backbone.named_parameters()})
    assert found[0]["rel_pos_bias.relative_position_bias_table"].abs().sum() > 0
    for name, grad in found[0].items():
        torch.testing.assert_close(grad, found[1][name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("neck", [True, False])
def test_the_order_of_full_attention_makes_no_difference(neck, monkeypatch):
    """Check that images share their biases, and that outputs are those of the order of the mask."""
    target = dict(type="xtra_toolkit.MaskedPatches")
    vit = dict(positions="relative", mask_tokens=True, with_cls_token=True)
    model = pretrainer("shown", "masked", **vit) if neck else None
    if not neck:
        head = dict(type="xtra_toolkit.PredictionHead")
        backbone = RELATIVE | dict(mask_tokens=True, with_cls_token=True)
        config = dict(type="xtra_toolkit.MaskTargetPretrainer", mask=MASKS["shown"], neck=None)
        model = MODELS.build(config | dict(target_generator=target, backbone=backbone, head=head))
    grid, shapes = model.backbone.grid, []
    images = torch.randn(2, 3, grid.rows * 8, grid.cols * 8).double()
    plan = randomise(model).double().objective(2, images.device, torch.Generator().manual_seed(0))
    model.backbone.rel_pos_bias.register_forward_hook(lambda *args: shapes.append(len(args[2])))
    found = model.reconstruct(images, plan)[0]
    plan.each_token_once = False
    torch.testing.assert_close(found, model.reconstruct(images, plan)[0], rtol=1e-10, atol=1e-12)
    assert shapes == [1, 2]


def test_a_checkpoint_tells_them(tmp_path):
    model = write_checkpoint(tmp_path / "it.pth", positions="relative")
    encoder, _ = xtra_toolkit.load(tmp_path / "it.pth", "tokens")
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(encoder(images), model.backbone(images)[0])


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"the relative positions of this encoder are those of a "):
        relative(dynamic_img_size=True)(torch.zeros(1, 3, 48, 48))
    with pytest.raises(ValueError, match="has relative positions, with which outputs cannot be"):
        Continuation(pretrainer(*XTRA, positions="relative"))
    with pytest.raises(ValueError, match="VisionTransformer has no relative positions"):
        to_mmpretrain(relative().state_dict())
