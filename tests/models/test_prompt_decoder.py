"""Test the prompt decoder: parity with that of MMPretrain's MILAN, its pattern and refusals."""

import pytest
import torch
from helpers.builds import MASKS, TARGETS, arch, randomise
from mmpretrain.registry import MODELS

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.masks import RandomShown
from xtra_toolkit.models import MaskTargetPretrainer, PromptDecoder
from xtra_toolkit.models.layers import gather_tokens
from xtra_toolkit.objective.compiler import certify_objective
from xtra_toolkit.targets import MaskedPatches
from xtra_toolkit.testing.gradients import moved_tokens
from xtra_toolkit.visualization.objectives.cost import parts

GRID = PatchGrid(4, 4, (8, 8), extra=1)


def build(mask="shown", *, share=1.0, backbone=None, **neck):
    return MODELS.build(
        dict(
            type=MaskTargetPretrainer,
            mask=MASKS[mask],
            target_generator=TARGETS["masked"] | dict(share=share),
            backbone=dict(type="xtra_toolkit.MaskedViT", arch=arch(), img_size=32, patch_size=8)
            | (backbone or {}),
            neck=dict(type="xtra_toolkit.PromptDecoder", width=32, depth=2, heads=2) | neck,
            head=dict(type="xtra_toolkit.PredictionHead"),
        )
    )


def pair():
    """Return MMPretrain's decoder and ours with the same drawn parameters."""
    theirs = MODELS.build(
        dict(
            type="mmpretrain.MILANPretrainDecoder",
            num_patches=16,
            patch_size=8,
            embed_dim=48,
            decoder_embed_dim=32,
            decoder_depth=3,
            decoder_num_heads=2,
            predict_feature_dim=10,
        )
    ).double()
    given = dict(in_channels=48, grid=GRID, has_masked_tokens=True)
    ours = PromptDecoder(width=32, depth=3, heads=2, positions="sincos", **given).double()
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in theirs.parameters():
            p.copy_(0.2 * torch.randn(p.shape, generator=g, dtype=torch.float64))
    ours.load_state_dict(converted({n: p.detach() for n, p in theirs.named_parameters()}))
    return theirs, ours


def converted(tensors):
    """Rename tensors, and join queries with keys and values."""
    found = {}
    for name, value in tensors.items():
        for old, new in (
            ("decoder_embed.", "projection."),
            ("decoder_pos_embed", "pos_embed"),
            ("decoder_blocks.", "layers."),
        ):
            name = name.replace(old, new)
        found[name] = value
    for name in [name for name in found if ".attn.q." in name]:
        both = found.pop(name), found.pop(name.replace(".q.", ".kv."))
        found[name.replace(".q.", ".qkv.")] = torch.cat(both)
    return {name: value for name, value in found.items() if not name.startswith("decoder_pred.")}


@pytest.mark.parametrize("seed", [0, 1])
def test_outputs_and_every_gradient_equal_those_of_mmpretrains(seed):
    theirs, ours = pair()
    g = torch.Generator().manual_seed(seed)
    objective = certify_objective(RandomShown(), MaskedPatches(), GRID)
    plan = objective(2, torch.device("cpu"), g)
    plan.output_positions = None  # all positions are read, as in MILAN
    encoded = torch.randn(2, 5, 48, generator=g, dtype=torch.float64)
    order = plan.order[:, 1:]  # the class token comes first
    restore = order.argsort(1)
    expected = theirs(encoded, restore, order[:, :4], order[:, 4:])  # in raster order
    out = torch.nn.functional.linear(
        ours(encoded, plan), theirs.decoder_pred.weight, theirs.decoder_pred.bias
    )
    raster = torch.cat([torch.zeros(2, 1, dtype=torch.long), restore + 1], 1)
    found = gather_tokens(out, raster)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    weights = torch.randn(expected.shape, generator=g, dtype=torch.float64)
    (expected * weights).sum().backward()
    theirs.decoder_pred.zero_grad()
    (found * weights).sum().backward()
    grads = converted({n: p.grad for n, p in theirs.named_parameters() if p.grad is not None})
    for name, parameter in ours.named_parameters():
        if parameter.requires_grad:
            error = (parameter.grad - grads[name]).abs().max()
            assert error <= 1e-10 * grads[name].abs().max(), name


def test_a_prediction_depends_on_exactly_the_visible_tokens():
    model = build()
    drawn = model.objective.mask(model.backbone.grid, 1, torch.Generator().manual_seed(0))
    for moved in moved_tokens(model, 0):
        assert moved.tokens.nonzero().flatten().tolist() == drawn.order[0, :4].sort()[0].tolist()


def test_only_mask_tokens_are_computed_and_a_part_of_them_is_read():
    model, rows = randomise(build()), []
    model.neck.layers[0].ffn.register_forward_hook(lambda _, x, y: rows.append(y.shape[1]))
    images, part = torch.randn(2, 3, 32, 32), build(share=0.5).eval()
    part.load_state_dict(model.state_dict())
    full, some = (
        m.reconstruct(images, m.objective(2, images.device, torch.Generator().manual_seed(1)))[0]
        for m in (model, part)
    )
    torch.testing.assert_close(some, full[:, -6:])
    assert rows == [12]
    with torch.device("meta"):
        model = build()
    decoder = next(part for part in parts(model, "cpu") if part.name == "decoder")
    assert decoder.places == "12 of 16" and decoder.attention == "full, sdpa"


def test_recomputed_layers_agree():
    images, losses = torch.randn(2, 3, 32, 32), []
    for neck in (dict(), dict(with_cp=True)):
        model = randomise(build(rope="dinov3", positions="none", **neck)).train()
        plan = model.objective(2, images.device, torch.Generator().manual_seed(0))
        loss = model._loss(images, plan)["loss"]
        loss.backward()
        losses.append((loss, [p.grad for p in model.parameters()]))
    torch.testing.assert_close(*losses)


def test_without_mask_tokens_in_the_decoder_it_is_refused():
    with pytest.raises(ValueError, match="computes mask tokens alone, and there are none"):
        build(backbone=dict(mask_tokens=True))
