"""Test the parts of modern ViTs against MMPretrain's and timm's models with the same weights."""

import re
from functools import partial

import pytest
import timm
import torch
from helpers.builds import MASKS, arch, pretrainer, randomise
from mmpretrain.registry import MODELS

from xtra_toolkit.attention import Pattern
from xtra_toolkit.models.encoder_mask import KEY
from xtra_toolkit.models.layers import run_layers
from xtra_toolkit.weights import timm as timm_names
from xtra_toolkit.weights.names import reverse, translate

RMS = dict(type="xtra_toolkit.RMSNorm", eps=1e-5)
FULL = dict(mask=MASKS["bidirectional"], out_type="raw")
SHAPE = dict(arch=arch(), img_size=(64, 48), patch_size=8)
IMAGES = torch.randn(2, 3, 64, 48, generator=torch.Generator().manual_seed(1))


def encoder(**options):
    """Build a small MaskedViT with random weights."""
    return randomise(MODELS.build(dict(type="xtra_toolkit.MaskedViT", **SHAPE | FULL | options)))


def agree(ours, theirs, tolerance):
    """Check that two models give the same features in float64."""
    images = IMAGES.double()
    theirs.double().eval()
    mine, reference = ours.double()(images)[0], theirs(images)
    reference = reference[0] if isinstance(reference, tuple) else reference
    assert (mine - reference).abs().max() <= tolerance * reference.abs().max()


@pytest.mark.parametrize(
    "layer_cfgs",
    [
        dict(ffn_type="swiglu", sub_ln=True, qk_norm=True, feedforward_channels=64),
        [dict(qk_norm=True), dict(ffn_type="swiglu_fused")],
    ],
)
def test_the_layers_of_the_decoder_are_those_of_the_encoder(layer_cfgs):
    """Give both the same weights, norms and input."""
    parts = dict(layer_cfgs=layer_cfgs, norm_cfg=RMS)
    vit = encoder(**parts)
    model = pretrainer("token", "token", image=(64, 48), decoder=dict(width=48, heads=3, **parts))
    layers = model.neck.layers
    layers.load_state_dict(vit.layers.state_dict())
    assert {type(m).__name__ for m in model.neck.modules() if "Norm" in type(m).__name__} == {
        "RMSNorm"
    }
    x, pattern = torch.randn(2, 48, 48), Pattern("causal", 48)
    assert torch.equal(*(run_layers(each, x, pattern, None) for each in (layers, vit.layers)))
    model.loss(IMAGES)["loss"].backward()
    assert all(p.grad is not None for p in model.neck.parameters())


@pytest.mark.parametrize("depth", [-1, 0])
def test_a_decoder_without_layers(depth):
    with pytest.raises(ValueError, match="depth=-1 was given" if depth else "has no layer with at"):
        pretrainer("shown", "masked", decoder=dict(depth=depth))


@pytest.mark.parametrize("scale", [0.0, 0.1])
def test_the_fused_swiglu_is_mmpretrains(scale):
    """Check MMPretrain's ViT with ffn_type='swiglu_fused' and LayerScale, as its DINOv2 has."""
    options = dict(
        with_cls_token=True,
        layer_cfgs=dict(ffn_type="swiglu_fused"),
        layer_scale_init_value=scale,
        norm_cfg=RMS,
    )
    ours = encoder(**options)
    stock = dict(type="mmpretrain.VisionTransformer", out_type="raw", **SHAPE | options)
    theirs = MODELS.build(stock)
    missing, unexpected = theirs.load_state_dict(ours.state_dict(), strict=False)
    assert not missing and len(unexpected) == 1  # the mask
    agree(ours, theirs, 1e-10)


def eva02_name(name):
    """Convert a parameter of a MaskedViT to that of MMPretrain's ViTEVA02."""
    for old, new in ((".ln1", ".norm1"), (".ln2", ".norm2"), (".ffn", ".mlp")):
        name = name.replace(old, new) if name.startswith("layers.") else name
    return name


@pytest.mark.parametrize("sub_ln", [False, True])
def test_mmpretrains_eva02(sub_ln):
    """Check rotary positions, SwiGLU and the norm in it, on a rectangle with a class token."""
    ours = encoder(
        with_cls_token=True, rope="mmpretrain", layer_cfgs=dict(ffn_type="swiglu", sub_ln=sub_ln)
    )
    stock = dict(norm_cfg=dict(type="LN", eps=1e-6), out_type="raw", sub_ln=sub_ln)
    theirs = MODELS.build(dict(type="mmpretrain.ViTEVA02", **SHAPE | stock))
    state = {eva02_name(name): value for name, value in ours.state_dict().items()}
    missing, unexpected = theirs.load_state_dict(state, strict=False)
    assert all("rope" in name for name in missing) and len(unexpected) == 1
    agree(ours, theirs, 1e-10)


ROWS = [
    *timm_names.ROWS,
    ("blocks.{i}.attn.q_norm.", "layers.{i}.attn.q_norm."),
    ("blocks.{i}.attn.k_norm.", "layers.{i}.attn.k_norm."),
    ("blocks.{i}.gamma_{k}", "layers.{i}.gamma{k}.weight"),
    ("blocks.{i}.mlp.fc1_g.", "layers.{i}.ffn.gate."),
    ("blocks.{i}.mlp.fc1_x.", "layers.{i}.ffn.hidden."),
    ("blocks.{i}.mlp.norm.", "layers.{i}.ffn.norm."),
    ("blocks.{i}.mlp.fc2.", "layers.{i}.ffn.w3."),
    ("reg_token", "register_tokens"),
]


def with_weights_of(ours, theirs):
    """Return a model of timm with the weights of a MaskedViT."""
    state = {}
    for name, value in ours.state_dict().items():
        if ".w12." in name:
            gate, hidden = value.chunk(2)
            state |= {name.replace("w12", "gate"): gate, name.replace("w12", "hidden"): hidden}
        elif KEY not in name:
            state[name] = value
    if hasattr(theirs, "reg_token"):  # the same LayerScale has other names in timm's Eva
        state = {re.sub(r"(attn|ffn)\.gamma", "gamma", name): v for name, v in state.items()}
    theirs.load_state_dict(translate(state, reverse(ROWS), "ours", "timm's"))
    return theirs


SMALL = dict(img_size=(64, 48), patch_size=8, embed_dim=48, depth=2, num_heads=3)
BARE = dict(num_classes=0, global_pool="")


def test_timms_norms_of_queries_and_keys():
    theirs = timm.models.VisionTransformer(**SMALL, **BARE, class_token=False, qk_norm=True)
    ours = encoder(layer_cfgs=dict(qk_norm=True))
    agree(ours, with_weights_of(ours, theirs), 1e-10)


def test_timms_aimv2():
    """Check RMSNorm, also of the patches, and SwiGLU, without biases in the layers."""
    norm = partial(timm.layers.RmsNorm, eps=1e-5)
    theirs = timm.models.VisionTransformer(
        **SMALL, **BARE, class_token=False, fc_norm=False, mlp_ratio=4, qkv_bias=False,
        proj_bias=False, act_layer="silu", norm_layer=norm, embed_norm_layer=norm,
        mlp_layer=timm.layers.SwiGLU,
    )  # fmt: skip
    options = dict(norm_cfg=RMS, patch_cfg=dict(norm_cfg=RMS), bias=False)
    ours = encoder(layer_cfgs=dict(ffn_type="swiglu"), **options)
    agree(ours, with_weights_of(ours, theirs), 1e-10)


def test_timms_eva02():
    theirs = timm.models.Eva(
        **SMALL, **BARE, qkv_bias=False, swiglu_mlp=True, scale_mlp=True, use_rot_pos_emb=True,
        ref_feat_shape=(16, 16), norm_layer=partial(timm.layers.LayerNorm, eps=1e-6),
    )  # fmt: skip
    cfgs = dict(ffn_type="swiglu", sub_ln=True)
    ours = encoder(with_cls_token=True, rope="eva02", qkv_bias=False, layer_cfgs=cfgs)
    agree(ours, with_weights_of(ours, theirs), 1e-6)  # timm computes the angles in float32


@pytest.mark.parametrize("registers", [0, 4])
def test_timms_dinov3(registers):
    """Check rotary positions, LayerScale, and registers after the class token."""
    size = dict(img_size=(64, 32))  # coordinates are exact in float32, in which timm computes them
    theirs = timm.models.Eva(
        **SMALL | size, **BARE, qkv_bias=False, init_values=0.1, use_rot_pos_emb=True,
        use_abs_pos_emb=False, dynamic_img_size=True, rope_type="dinov3", rope_temperature=100,
        rope_rotate_half=True, num_reg_tokens=registers,
        norm_layer=partial(timm.layers.LayerNorm, eps=1e-5),
    ).double()  # fmt: skip
    theirs.rope.periods.copy_(100.0 ** (torch.arange(4).double() / 4))  # those were float32's
    ours = encoder(
        with_cls_token=True, registers=registers, rope="dinov3", positions="none", qkv_bias=False,
        layer_scale_init_value=0.1, norm_cfg=dict(type="LN", eps=1e-5), **size,
    )  # fmt: skip
    theirs, images = with_weights_of(ours, theirs).eval(), IMAGES[..., :32].double()
    reference = theirs(images)
    assert reference.shape == (2, 1 + registers + 32, 48)
    assert (ours.double()(images)[0] - reference).abs().max() <= 1e-10 * reference.abs().max()
