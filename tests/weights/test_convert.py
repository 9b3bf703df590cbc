"""Test conversion from the original's names and numbers to ours and to stock ViTs."""

import argparse
import logging
from pathlib import Path

import pytest
import timm
import torch
from helpers.builds import MASKS, XTRA, arch, pretrainer, randomise
from mmengine.runner.checkpoint import load_checkpoint
from mmpretrain.registry import MODELS
from safetensors.torch import load_file

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.models.encoder_mask import pack
from xtra_toolkit.weights.checkpoint import MASK, Checkpoint
from xtra_toolkit.weights.read import read_state

GOLDEN = Path(__file__).parents[1] / "golden"
ORIGINAL = load_file(GOLDEN / "xtra_k2_weights.safetensors")
OUT = load_file(GOLDEN / "xtra_k2_outputs.safetensors")
BLOCKS = dict(type="xtra_toolkit.BlockCausal", block_size=2)
STRANGER = argparse.Namespace(enc_arch="vit", lr=1e-3)
WRAPPED = dict(
    lightning=dict(
        state_dict=ORIGINAL, hyper_parameters=dict(args=STRANGER), optimizer_states=[{0: STRANGER}]
    ),
    deepspeed=dict(module=ORIGINAL, ds_config={"zero": 1}, names={"a"}, args=STRANGER),
    plain=ORIGINAL,
)


def ours(mask, target="token", **backbone):
    """Return a pretrainer's checkpoint and its model."""
    model = randomise(pretrainer(mask, target, **backbone))
    return Checkpoint.of(model.state_dict()), model


def vit(kind="xtra_toolkit.MaskedViT", **args):
    """Return an encoder of the shape of the golden values."""
    shape = dict(arch=arch(), img_size=64, patch_size=8, with_cls_token=False, out_type="raw")
    model = MODELS.build(dict(type=kind, **{**shape, **args}))
    model.eval()  # MMPretrain's returns nothing
    return model


def timm_vit(class_token=False, **args):
    """Return timm's encoder of the same shape."""
    return timm.models.VisionTransformer(
        img_size=64,
        patch_size=8,
        embed_dim=48,
        depth=2,
        num_heads=3,
        num_classes=0,
        class_token=class_token,
        global_pool="",
        **args,
    ).eval()


def saved(path, content):
    torch.save(content, path)
    return str(path)


@pytest.mark.parametrize("content", WRAPPED.values(), ids=WRAPPED)
def test_the_original_gives_the_golden_loss_and_features(tmp_path, content):
    state = read_state(saved(tmp_path / "original.ckpt", content))
    target = saved(tmp_path / "ours.pth", Checkpoint.of(state).layout("pretrainer"))
    model = pretrainer(*XTRA)
    model.load_state_dict(torch.load(target, weights_only=True)["state_dict"], strict=True)
    loss = model.loss(OUT["images"])["loss"].detach()
    assert abs(float(loss) - float(OUT["loss"])) < 5e-7
    model = pretrainer(*XTRA)
    load_checkpoint(model, target, strict=True)  # what load_from does
    torch.testing.assert_close(
        model.extract_feat(OUT["images"])[0], OUT["encoder_out"], atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("layout", ["pretrainer", "encoder"])
def test_the_mask_is_read_from_the_checkpoint(tmp_path, layout):
    path = saved(tmp_path / "ours.pth", Checkpoint.of(ORIGINAL).layout(layout))
    init = dict(type="Pretrained", checkpoint=path, prefix="backbone.")
    model = vit(init_cfg=init)  # no mask named, as in a benchmark config
    with pytest.raises(ValueError, match="this encoder knows no mask"):
        model(OUT["images"])
    model.init_weights()
    assert model.encoder_mask.config == BLOCKS
    torch.testing.assert_close(model(OUT["images"])[0], OUT["encoder_out"], atol=1e-5, rtol=0)


def test_another_mask_is_refused_without_change_mask():
    state = Checkpoint.of(ORIGINAL).layout("encoder")["state_dict"]
    state = {name.removeprefix("backbone."): value for name, value in state.items()}
    with pytest.raises(ValueError, match=r"trained with the mask .*BlockCausal.* change_mask=True"):
        vit(mask=MASKS["bidirectional"]).load_state_dict(state)
    model = vit(mask=MASKS["bidirectional"], change_mask=True)
    model.load_state_dict(state)
    assert model.encoder_mask.config == MASKS["bidirectional"]


@pytest.mark.parametrize(
    ("stored", "named"),
    [
        (MASKS["prefix"], MASKS["bidirectional"]),
        (MASKS["token"], dict(type="xtra_toolkit.BlockCausal", block_size=1)),
    ],
)
def test_another_name_of_the_same_features_is_accepted(stored, named):
    source, other, x = (
        randomise(vit(mask=stored)),
        vit(mask=named).eval(),
        torch.randn(2, 3, 64, 64),
    )
    other.load_state_dict(source.state_dict())
    torch.testing.assert_close(other(x)[0], source(x)[0])


def test_blocks_of_one_token_are_token_causal():
    width = ORIGINAL["predictor.pos_embed"].shape[-1]
    head = {"aim_proj.0.mlp.0.weight": torch.zeros(64, width)}
    state = {n: v for n, v in ORIGINAL.items() if not n.startswith("aim_proj")} | head
    assert Checkpoint.of(state).mask == MASKS["token"]


def test_an_encoder_of_the_original_without_its_head_needs_a_mask():
    state = {name: value for name, value in ORIGINAL.items() if name.startswith("enc.")}
    with pytest.raises(ValueError, match=r"tell its encoder's mask \(that of an original XTRA"):
        Checkpoint.of(state)
    checkpoint = Checkpoint.of(state, BLOCKS)
    assert checkpoint.layout("encoder")["state_dict"].keys() == {
        *(f"backbone.{name}" for name in checkpoint.encoder),
        MASK,
    }
    with pytest.raises(ValueError, match="holds an encoder and no head; take layout 'encoder'"):
        checkpoint.layout("pretrainer")


FULL = [("prefix", "token", {}), ("shown", "masked", dict(with_cls_token=True))]


@pytest.mark.parametrize(("mask", "target", "options"), FULL)
@pytest.mark.parametrize("scale", [0.0, 0.1], ids=["", "layer_scale"])
def test_stock_vits_give_the_same_features(tmp_path, mask, target, options, scale):
    options = dict(options, layer_scale_init_value=scale)
    checkpoint, model = ours(mask, target, **options)
    features = model.extract_feat(OUT["images"])[0]

    path = saved(tmp_path / "stock.pth", checkpoint.layout("mmpretrain"))
    init = dict(type="Pretrained", checkpoint=path, prefix="backbone.")
    stock = vit("mmpretrain.VisionTransformer", init_cfg=init, **options)
    stock.init_weights()
    torch.testing.assert_close(stock(OUT["images"])[0], features, atol=1e-5, rtol=0)

    stock = timm_vit(options.get("with_cls_token", False), init_values=scale or None)
    stock.load_state_dict(checkpoint.layout("timm")["state_dict"], strict=True)
    torch.testing.assert_close(stock(OUT["images"]), features, atol=1e-5, rtol=0)


def test_a_masked_encoder_becomes_a_stock_vit_only_with_full_attention():
    checkpoint = Checkpoint.of(ORIGINAL)
    for name in ("mmpretrain", "timm"):
        with pytest.raises(ValueError, match=f"stock ViT of {name} would run it with full att"):
            checkpoint.layout(name)
    content = checkpoint.layout("timm", full_attention=True)
    assert content["meta"]["attention"] == "full"
    assert content["meta"]["encoder_mask"] == BLOCKS
    model = timm_vit()
    model.load_state_dict(content["state_dict"], strict=True)
    x, twin = OUT["images"], vit(mask=MASKS["bidirectional"])
    twin.load_state_dict(checkpoint.encoder)
    torch.testing.assert_close(model(x), twin(x)[0], atol=1e-5, rtol=0)
    assert (model(x) - OUT["encoder_out"]).abs().max() > 1e-2  # this is the reason for the refusal


@pytest.mark.parametrize("layout", ["mmpretrain", "timm"])
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (dict(positions="relative"), "has relative positions, which a plain ViT of {} lacks"),
        (dict(rope="dinov3"), r"has parts that a plain ViT of {} lacks \(rope\)"),
        (dict(layer_cfgs=[{}, dict(qk_norm=True)]), r"does not record \(layer_cfgs\), so a plain"),
    ],
)
def test_parts_that_a_stock_vit_lacks_are_refused(layout, options, sentence):
    checkpoint, _ = ours("shown", "masked", **options)
    with pytest.raises(ValueError, match=sentence.format(layout)):
        checkpoint.layout(layout)


def test_a_stock_vit_gets_no_mask_token():
    checkpoint, model = ours("shown", "masked", mask_tokens=True)
    assert "backbone.mask_token" in checkpoint.state
    stock = timm_vit()
    stock.load_state_dict(checkpoint.layout("timm")["state_dict"], strict=True)
    features = model.extract_feat(OUT["images"])[0]
    torch.testing.assert_close(stock(OUT["images"]), features, atol=1e-5, rtol=0)
    assert not any("mask" in name for name in checkpoint.layout("mmpretrain")["state_dict"])


def test_files_for_stock_vits_record_the_mask_of_the_encoder(tmp_path, caplog):
    content = Checkpoint.of(ORIGINAL).layout("encoder")
    path, logger = saved(tmp_path / "encoder.pth", content), logging.getLogger("stock")
    stock = vit("mmpretrain.VisionTransformer")
    load_checkpoint(stock, path, revise_keys=[(r"^backbone\.", "")], logger=logger)
    said = "unexpected key in source state_dict: xtra_toolkit_attention_mask.json"
    assert said in caplog.text and "missing" not in caplog.text
    masked = Checkpoint.of(ORIGINAL).layout("timm", full_attention=True)["state_dict"]
    masked[MASK.removeprefix("backbone.")] = content["state_dict"][MASK]
    with pytest.raises(RuntimeError, match=r"Unexpected key.*xtra_toolkit_attention_mask\.json"):
        timm_vit().load_state_dict(masked, strict=True)


def test_checkpoints_of_this_toolkit_can_be_converted():
    checkpoint, model = ours("block_orders", "block")
    assert checkpoint.mask == MASKS["block_orders"]
    again = Checkpoint.of(checkpoint.layout("encoder")["state_dict"])
    alone = Checkpoint.of(model.backbone.state_dict() | {}, MASKS["block_orders"])
    assert again.mask == alone.mask == checkpoint.mask
    assert again.encoder.keys() == checkpoint.encoder.keys()


def test_rectangles_keep_their_grid():
    checkpoint, _ = ours("prefix", "token", image=(32, 64))
    assert (checkpoint.grid.rows, checkpoint.grid.cols) == (4, 8)
    state = dict(checkpoint.state)
    with pytest.raises(ValueError, match="32 tokens, which do not make a grid of 5×5"):
        Checkpoint.of(state, MASKS["prefix"])
    assert Checkpoint.of(state, MASKS["prefix"], (32, 64)).grid == checkpoint.grid


def of_mask(mask):
    grid = PatchGrid(8, 8, (8, 8))
    return Checkpoint.of(ORIGINAL, BLOCKS).layout("encoder")["state_dict"] | {
        MASK: pack(mask, grid)
    }


@pytest.mark.parametrize("inside", [False, True])
def test_a_mask_in_a_file_calls_nothing(tmp_path, inside):
    attack = dict(type="pathlib.Path.touch", self=str(tmp_path / "trace"))
    attack = dict(type="xtra_toolkit.BlockCausal", block_size=[attack]) if inside else attack
    state = of_mask(attack)
    with pytest.raises(ValueError, match=r"'pathlib.Path.touch', which is not registered here"):
        Checkpoint.of(state)
    state = {name.removeprefix("backbone."): value for name, value in state.items()}
    for mask in (None, MASKS["block"]):
        with pytest.raises(ValueError, match="which is not registered here"):
            vit(mask=mask).load_state_dict(state)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Checkpoint.of({"conv.weight": torch.ones(1)}), "no encoder was found.*'conv.wei"),
        (lambda: Checkpoint.of({}), "no encoder was found.*None"),
        (lambda: Checkpoint.of(vit().state_dict()), r"does not tell .* name it with --mask"),
        (lambda: Checkpoint.of(of_mask(BLOCKS), MASKS["token"]), "says that its mask is .*Block"),
        (
            lambda: Checkpoint.of(ORIGINAL, dict(BLOCKS, block_size=3)),
            "blocks of 3×3 tokens do not tile a grid of 8×8 tokens",
        ),
        (
            lambda: Checkpoint.of(ORIGINAL | {"classifier.weight": torch.ones(1)}),
            r"no place for 1 of the .* read as those of elad-amrani/xtra.*'classifier.weight'",
        ),
        (
            lambda: Checkpoint.of(ORIGINAL).layout("jax"),
            "unknown layout 'jax'; valid layouts: pretrainer, encoder, classifier, mmpretrain, ",
        ),
        (
            lambda: Checkpoint.of(
                vit(out_type="avg_featmap").state_dict(), MASKS["bidirectional"]
            ).layout("timm"),
            r"timm's VisionTransformer has one final norm, and this encoder has two",
        ),
        (
            lambda: Checkpoint.of(
                {**vit().state_dict(), "bridge": torch.ones(1)}, MASKS["bidirectional"]
            ).layout("timm"),
            "timm's VisionTransformer has no place for 1 of the .*a MaskedViT; the first: 'bridge'",
        ),
    ],
)
def test_bad_input_is_refused_with_a_message(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()
