"""Test the cross-attending decoder: CrossMAE's numbers, its pattern, and what is refused."""

import re
from pathlib import Path

import pytest
import torch
from helpers.builds import MASKS, TARGETS, arch, pretrainer, randomise
from mmengine.config import Config
from mmpretrain.registry import MODELS
from safetensors.torch import load_file

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.masks import Mask, MaskFactory
from xtra_toolkit.masks.random_shown import visible_first
from xtra_toolkit.models import MaskTargetPretrainer
from xtra_toolkit.objective.registers import with_registers
from xtra_toolkit.registry import MASKS as REGISTRY
from xtra_toolkit.targets import MaskedPatches
from xtra_toolkit.testing.gradients import moved_tokens
from xtra_toolkit.visualization.objectives.cost import parts
from xtra_toolkit.visualization.objectives.view import BLIND, DECODER, View

ROOT = Path(__file__).parents[2]
GRID = PatchGrid(4, 4, (8, 8))
NAMES = [
    (r"^mask_token", "neck.mask_token"),
    (r"^decoder_pos_embed", "neck.pos_embed"),
    (r"^patch_embed\.proj\.", "backbone.patch_embed.projection."),
    (r"^(cls_token|pos_embed)", r"backbone.\1"),
    (r"^blocks\.", "backbone.layers."),
    (r"^dec_norms\.", "neck.weights.norms."),
    (r"^wfm\.linear\.", "neck.weights.linear."),
    (r"^decoder_blocks\.", "neck.layers."),
    (r"^decoder_norm\.", "neck.ln1."),
    (r"^decoder_pred\.", "head.predictors.0."),
    (r"\.norm(\d)\.", r".ln\1."),
    (r"\.cross_attn\.", ".attn."),
    (r"mlp\.fc1", "ffn.layers.0.0"),
    (r"mlp\.fc2", "ffn.layers.1"),
]


@REGISTRY.register_module()
class SeesFirst(MaskFactory):
    """A predicate: position 0 to 4 are visible, and 5 attends to position 0 alone."""

    random = False

    def __call__(self, grid, batch=1, generator=None):
        raster = torch.arange(grid.tokens)
        return Mask(
            raster,
            torch.zeros_like(raster),
            visible=raster < 5,
            context=raster != 5,
            attend=lambda q, k: (q == k) | ((q == 5) & (k < 1)) | ((q == 0) & (k == 2)),
        )

    def for_features(self, grid):
        raster = torch.arange(grid.tokens)
        return Mask(raster, torch.zeros_like(raster))


@REGISTRY.register_module()
class HiddenFirst(MaskFactory):
    """The first token is hidden, and no token comes before it."""

    random = False

    def __call__(self, grid, batch=1, generator=None):
        raster = torch.arange(grid.tokens)
        return Mask(raster, raster, visible=raster % 2 == 1)

    def for_features(self, grid):
        return Mask(torch.arange(grid.tokens), torch.arange(grid.tokens))


def build(mask="shown", target="masked", *, share=1.0, backbone=None, **neck):
    target = TARGETS[target] if isinstance(target, str) else target
    return MODELS.build(
        dict(
            type=MaskTargetPretrainer,
            mask=MASKS[mask] if isinstance(mask, str) else mask,
            target_generator=target | (dict(share=share) if share < 1 else {}),
            backbone=dict(type="xtra_toolkit.MaskedViT", arch=arch(), img_size=32, patch_size=8)
            | (backbone or {}),
            neck=dict(type="xtra_toolkit.CrossDecoder", width=32, depth=2, heads=2) | neck,
            head=dict(type="xtra_toolkit.PredictionHead"),
        )
    )


def our_name(name):
    for old, new in NAMES:
        name = re.sub(old, new, name)
    return name


def channel_first(name, value):
    if "decoder_pred" not in name:
        return value
    return value.unflatten(0, (8, 8, 3)).movedim(2, 0).flatten(0, 2)


def test_loss_and_every_gradient_equal_those_of_the_original():
    golden = load_file(ROOT / "tests" / "golden" / "crossmae.safetensors")
    config = Config.fromfile(ROOT / "mmconfigs" / "crossmae_vit-b16.py").model
    config.backbone.update(
        arch=dict(embed_dims=24, num_layers=2, num_heads=2, feedforward_channels=96),
        img_size=32,
        patch_size=8,
    )
    config.neck.update(width=16, depth=2, heads=2, memory_layers=[0, 1, 2])
    model = MODELS.build(config).double()
    weights, grads = (
        {
            our_name(n.removeprefix(part)): channel_first(n, v)
            for n, v in golden.items()
            if n.startswith(part)
        }
        for part in ("weight/", "grad/")
    )
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected and not set(missing) & {n for n, _ in model.named_parameters()}
    drawn = visible_first(model.backbone.grid, golden["order"], 4)
    plan = model.objective.compile(drawn, torch.device("cpu"))
    predicted = torch.zeros(2, 16).scatter(1, plan.groups[0].tokens[..., 0], 1.0)
    assert torch.equal(predicted, golden["predicted"].float())
    loss = model._loss(golden["images"], plan)["loss"]
    torch.testing.assert_close(loss, golden["loss"][0], rtol=1e-10, atol=0)
    loss.backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            error = (parameter.grad - grads[name]).abs().max()
            assert error <= 1e-10 * grads[name].abs().max(), name


@pytest.mark.parametrize("registers", [0, 2])
@pytest.mark.parametrize("pair", [("shown", "masked"), ("block", "block"), ("prefix", "token")])
def test_a_prediction_depends_on_exactly_the_tokens_that_the_mask_allows(pair, registers):
    """A mask token reads the encoder alone, but that has seen what its own mask allows."""
    mask, target = pair
    model = build(mask, target, backbone=dict(registers=registers))
    for seed in range(2):
        factory = with_registers(model.objective.mask, model.backbone.grid)
        drawn = factory(model.backbone.grid, 1, torch.Generator().manual_seed(seed))
        sees, order = drawn.attention_mask()[0], torch.atleast_2d(drawn.order)[0]
        for moved in moved_tokens(model, seed):
            read = sees[moved.source_positions].any(0) & drawn.visible_or_all()
            expected = torch.zeros(16 + registers, dtype=torch.bool)
            expected[order[read]] = True
            assert torch.equal(moved.tokens, expected[:16])
            assert not moved.tokens[moved.targets].any()


def test_no_information_passes_through_mask_tokens_under_a_predicate():
    """Position 5 reads position 0, which sees position 2 in one layer of the encoder."""
    model = build(dict(type="SeesFirst"), backbone=dict(arch=arch(depth=1)))
    (moved,) = moved_tokens(model, 0)
    assert moved.source_positions.tolist() == [5]
    assert moved.tokens.nonzero().flatten().tolist() == [0, 2]
    assert model.objective(1, torch.device("cpu")).cross().mask.shape == (1, 1, 5)


def test_a_part_of_the_hidden_tokens_is_predicted_and_nothing_else_is_computed():
    model, images = build(share=1 / 3), torch.randn(2, 3, 32, 32)
    rows = []
    model.neck.layers[0].register_forward_hook(lambda _, x, y: rows.append(y.shape[1]))
    plan = model.plan(images)
    (prediction,) = model.reconstruct(images, plan)
    assert rows == [4] and prediction.shape[1] == 4  # a third of 12
    again = randomise(build())
    part = build(share=1 / 3)
    part.load_state_dict(again.state_dict())
    part.eval()
    full = again.objective(2, images.device, torch.Generator().manual_seed(1))
    some = part.objective(2, images.device, torch.Generator().manual_seed(1))
    (every,), (last,) = again.reconstruct(images, full), part.reconstruct(images, some)
    torch.testing.assert_close(last, every[:, -4:])


def test_recomputed_layers_and_all_back_ends_agree():
    images, losses = torch.randn(2, 3, 32, 32), []
    for neck in (dict(), dict(with_cp=True), dict(attention="eager"), dict(attention="sdpa")):
        model = randomise(build("prefix", "token", **neck)).train()
        plan = model.objective(2, images.device, torch.Generator().manual_seed(0))
        loss = model._loss(images, plan)["loss"]
        loss.backward()
        losses.append(torch.stack([loss.detach(), model.neck.layers[0].attn.kv.weight.grad.sum()]))
    for other in losses[1:]:
        torch.testing.assert_close(other, losses[0], rtol=1e-5, atol=1e-6)


def test_the_figure_and_the_costs_tell_that_mask_tokens_read_the_encoder():
    model = build(share=1 / 3)
    mask = model.objective.mask(GRID)
    pairs = View.of(mask, GRID, cross=True).sequence
    assert (pairs[4:, :4] == DECODER).all() and (pairs[:, 4:] == BLIND).all()
    with torch.device("meta"):
        model = build(share=1 / 3)
    decoder = next(part for part in parts(model, "cpu") if part.name == "decoder")
    assert decoder.places == "4 of 16" and decoder.attention.startswith("full, sdpa")
    kv, query = 2 * 4 * 48 * 64, 2 * 4 * (2 * 32 * 32 + 2 * 32 * 128) + 4 * 4 * 4 * 32
    assert decoder.flops == 2 * (kv + query)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(heads=3), "heads that divide the width"),
        (dict(depth=0), "needs a layer"),
        (dict(positions="none"), "nothing would tell where a token lies"),
        (dict(memory_layers=[0, 1]), "they must ascend from 0 .* to 2, the output of the encoder"),
        (dict(memory_layers=[0, 3]), "they must ascend"),
        (dict(memory_layers=[1, 0, 2]), "they must ascend"),
        (dict(memory_layers=[0, 2]), "set backbone.final_norm=False"),
        (dict(mask=dict(type="HiddenFirst")), "position 0 may attend to nothing that is encoded"),
    ],
)
def test_unsupported_settings_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        build(**arguments)
    positioned = dict(type="xtra_toolkit.NextToken", positioned=True)
    with pytest.raises(
        ValueError, match="the target is positioned, but the mask tokens of a Cross"
    ):
        build("token", positioned)


def test_a_decoder_is_a_subclass_of_the_contract():
    with pytest.raises(ValueError, match=r"neck.type is Linear; a decoder must be a subclass of"):
        build(type=NotADecoder)


class NotADecoder:
    """It builds another module, whatever it is given."""

    def __new__(cls, **arguments):
        return torch.nn.Linear(1, 1)


@pytest.mark.parametrize("share", [0, -1, 1.5])
def test_shares_out_of_range_are_refused(share):
    with pytest.raises(ValueError, match="must be above 0 and at most 1"):
        MaskedPatches(share=share)


def test_a_share_needs_hidden_tokens_at_shared_positions():
    visible = torch.tensor([[True, False, True], [False, True, True]])
    mask = Mask(torch.arange(3), torch.zeros(3).long(), visible=visible, context=visible)
    (links,) = MaskedPatches().links(mask, PatchGrid(1, 3))
    assert links.source_positions.flatten().tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="this mask hides other positions in each image; let it"):
        MaskedPatches(share=0.5).links(mask, PatchGrid(1, 3))


def test_the_encoder_of_a_checkpoint_is_probed_without_the_norm(tmp_path):
    model = randomise(
        build(memory_layers=[0, 2], backbone=dict(final_norm=False, with_cls_token=True))
    )
    torch.save(dict(state_dict=model.state_dict()), tmp_path / "it.pth")
    init = dict(type="Pretrained", checkpoint=str(tmp_path / "it.pth"), prefix="backbone.")
    probe = MODELS.build(dict(type="xtra_toolkit.MaskedViT", final_norm=False, init_cfg=init))
    probe.init_weights()
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(probe.eval()(images)[0], model.backbone(images)[0])


def test_the_decoder_is_initialised():
    model = pretrainer("shown", "masked")
    assert model.neck.memory_layers == () and not model.neck.cross
    model = build(positions="learned")
    model.init_weights()
    for parameter in (model.neck.mask_token, model.neck.pos_embed):
        assert float(parameter.detach().std()) == pytest.approx(0.02, rel=0.5)
