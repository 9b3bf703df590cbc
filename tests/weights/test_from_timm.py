"""Test conversion from timm's VisionTransformer to ours and back by its features."""

import re

import pytest
import timm
import torch
from click.testing import CliRunner
from helpers.builds import MASKS, arch
from mmpretrain.registry import MODELS

from xtra_toolkit.cli import main
from xtra_toolkit.weights.checkpoint import Checkpoint

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
TIMM = dict(img_size=64, patch_size=8, embed_dim=48, depth=2, num_heads=3)
BARE = dict(class_token=False, global_pool="", num_classes=0)
EMBED = dict(norm_cfg=dict(type="LN", eps=1e-6))
MEAN = dict(out_type="avg_featmap", final_norm=False)
# arguments of timm's, and those of a MaskedViT
KINDS = {
    "class_token": (dict(num_classes=10), dict(with_cls_token=True)),
    "bare": (BARE, {}),
    "no_final_norm": (dict(BARE, final_norm=False), dict(final_norm=False)),
    "layer_scale": (dict(BARE, init_values=0.1), dict(layer_scale_init_value=0.1)),
    "pre_norm": (dict(BARE, pre_norm=True), dict(pre_norm=True)),
    "no_qkv_bias": (dict(BARE, qkv_bias=False), dict(qkv_bias=False)),
    "no_bias": (
        dict(BARE, qkv_bias=False, proj_bias=False, embed_norm_layer="layernorm"),
        dict(bias=False, patch_cfg=EMBED),
    ),
    "registers": (
        dict(BARE, reg_tokens=4, no_embed_class=True),
        dict(registers=4),
    ),
    "class_token_and_registers": (
        dict(reg_tokens=4, no_embed_class=True, init_values=0.1, num_classes=10),
        dict(with_cls_token=True, registers=4, layer_scale_init_value=0.1),
    ),
    "pooled": (dict(class_token=False, global_pool="avg", num_classes=10), MEAN),
    "pooled_class_token": (
        dict(global_pool="avg", num_classes=10),
        dict(MEAN, with_cls_token=True),
    ),
}


def timms(seed=0, **args):
    """Return a small ViT of timm with random weights."""
    model = timm.models.VisionTransformer(**TIMM, **args)
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(0.2 * torch.randn(p.shape, generator=g) + ("norm" in name))
    return model.eval()


def ours(checkpoint, **args):
    """Return an encoder that has loaded the whole checkpoint."""
    shape = dict(arch=arch(), img_size=64, patch_size=8, out_type="raw")
    vit = MODELS.build(dict(type="xtra_toolkit.MaskedViT", **{**shape, **args}))
    state = checkpoint.layout("encoder")["state_dict"]
    vit.load_state_dict({n.removeprefix("backbone."): v for n, v in state.items()}, strict=True)
    return vit.eval()


def features(model):
    """Return the classifier's input: all tokens, or their mean if the norm follows the pooling."""
    x = model.forward_features(IMAGES)
    return model.forward_head(x, pre_logits=True) if model.global_pool == "avg" else x


@pytest.mark.parametrize("kind", KINDS)
def test_conversion_to_timm_and_back_is_exact(kind):
    theirs, args = timms(**KINDS[kind][0]), KINDS[kind][1]
    checkpoint = Checkpoint.of(theirs.state_dict())
    assert checkpoint.mask == MASKS["bidirectional"]
    assert ("left out" in checkpoint.note) == bool(theirs.num_classes)
    vit = ours(checkpoint, **args)
    torch.testing.assert_close(vit(IMAGES)[0], features(theirs), atol=1e-5, rtol=1e-5)

    back = timms(seed=1, **dict(KINDS[kind][0], num_classes=0))
    back.load_state_dict(checkpoint.layout("timm")["state_dict"], strict=True)
    torch.testing.assert_close(features(back), features(theirs), atol=0, rtol=0)


def test_a_class_token_without_a_position_gets_zeros():
    theirs = timms(no_embed_class=True)
    checkpoint = Checkpoint.of(theirs.state_dict())
    assert checkpoint.note.endswith("without a position (no_embed_class), gets zeros")
    vit = ours(checkpoint, with_cls_token=True)
    torch.testing.assert_close(vit(IMAGES)[0], features(theirs), atol=1e-5, rtol=0)


def test_positions_of_registers_are_added_to_them():
    theirs = timms(reg_tokens=4)
    vit = ours(Checkpoint.of(theirs.state_dict()), with_cls_token=True, registers=4)
    torch.testing.assert_close(vit(IMAGES)[0], features(theirs), atol=1e-5, rtol=1e-5)
    state = theirs.state_dict()
    state["pos_embed"] = state["pos_embed"][:, :37]  # of 4×8 patches
    with pytest.raises(ValueError, match="37 positions, and it is not known whether the class"):
        Checkpoint.of(state)


def test_a_rectangular_image_needs_its_size():
    theirs = timms(**dict(BARE)).state_dict()
    theirs["pos_embed"] = torch.randn(1, 32, 48)
    sentence = r"has 32 tokens, which do not make a grid of 5×5 .* name the size .*--img-size"
    with pytest.raises(ValueError, match=sentence):
        Checkpoint.of(theirs)
    checkpoint = Checkpoint.of(theirs, img_size=(32, 64))
    assert (checkpoint.grid.rows, checkpoint.grid.cols) == (4, 8)
    ours(checkpoint, img_size=(32, 64))
    with pytest.raises(ValueError, match=r"encoder has a grid of 4×8.*names a grid of 8×4"):
        Checkpoint.of(checkpoint.layout("encoder")["state_dict"], img_size=(64, 32))
    with pytest.raises(ValueError, match="has 32 tokens, which do not make a grid of 8×8"):
        Checkpoint.of(theirs, img_size=(64, 64))


def test_another_mask_can_be_given():
    checkpoint = Checkpoint.of(timms(**BARE).state_dict(), MASKS["block"])
    vit = ours(checkpoint)
    assert vit.encoder_mask.config == MASKS["block"]
    first = vit(IMAGES)[0][:, [0, 1, 8, 9]]
    other = IMAGES.clone()
    other[..., 16:] += 1  # outside the first block
    torch.testing.assert_close(vit(other)[0][:, [0, 1, 8, 9]], first, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("args", "first"),
    [
        (dict(qk_norm=True), "blocks.0.attn.q_norm.weight"),
        (dict(global_pool="map"), "attn_pool.latent"),
    ],
)
def test_parameters_without_a_counterpart_are_refused(args, first):
    state = timms(**args).state_dict()
    with pytest.raises(ValueError, match=f"a MaskedViT has no place for .*; the first: '{first}'"):
        Checkpoint.of(state)


@pytest.mark.parametrize(("suffix", "aim"), [(".safetensors", False), (".pth", True)])
def test_the_line_in_the_help_loads_the_written_file(suffix, aim, tmp_path):
    text = " ".join(CliRunner().invoke(main, ["convert", "--help"]).output.split())
    line, extra = re.search(
        r"timm\.create_model\(('.*?)\)\. AIM's also needs (.*?)\. The", text
    ).groups()
    line = line.replace("checkpoint_path=TARGET", "checkpoint_path=target")
    line = line.replace("img_size=256", "img_size=64").replace("base", "tiny")
    args = f"{line}, depth=2" + (f", {extra}" if aim else "")
    shape = dict(img_size=64, embed_dim=192, depth=2, num_heads=3)
    kind = KINDS["no_bias" if aim else "bare"][0]
    theirs = timm.models.VisionTransformer(**shape, **kind)
    source, target = tmp_path / "source.pth", str(tmp_path / f"target{suffix}")
    torch.save(dict(model=theirs.state_dict()), source)
    done = CliRunner().invoke(main, ["convert", str(source), target, "--to", "timm"])
    assert done.exit_code == 0, done.output
    model = eval(f"timm.create_model({args})", dict(timm=timm, target=target)).eval()
    torch.testing.assert_close(model(IMAGES), theirs.eval()(IMAGES), atol=0, rtol=0)
