"""Test that the published trunks and probe heads of AIM v1 give the original's outputs."""

from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from helpers.builds import arch
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from safetensors.torch import load_file

from xtra_toolkit.weights.checkpoint import Checkpoint

GOLDEN = load_file(Path(__file__).parents[1] / "golden" / "aim_trunk.safetensors")
TRUNK = {n.removeprefix("weight/"): v for n, v in GOLDEN.items() if n.startswith("weight/")}
IMAGES, SIZE = GOLDEN["images"], (64, 64)
NORM = dict(type="LN", eps=1e-6)
SHAPE = dict(arch=arch(depth=3), img_size=64, patch_size=8, patch_cfg=dict(norm_cfg=NORM))
ENCODER = dict(type="xtra_toolkit.MaskedViT", bias=False, positions="sincos", **SHAPE)
TIMM = dict(img_size=64, patch_size=8, embed_dim=48, depth=3, num_heads=3, num_classes=0)
NO_BIAS = dict(qkv_bias=False, proj_bias=False, embed_norm_layer="layernorm")


def drawn(*shape, seed):
    return 0.3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


HEAD = {  # 10 classes, as AttentionPoolingClassifier names and shapes them
    "head.cls_token": drawn(1, 1, 48, seed=1),
    "head.k.weight": drawn(48, 48, seed=2),
    "head.v.weight": drawn(48, 48, seed=3),
    "head.linear.weight": drawn(10, 48, seed=4),
    "head.bn.running_mean": drawn(48, seed=5),
    "head.bn.running_var": 1 + drawn(48, seed=6) ** 2,
    "head.bn.num_batches_tracked": torch.tensor(7),
}


def loaded(checkpoint, layout, **config):
    """Return a model of ours or of MMPretrain with all weights of a layout."""
    model = MODELS.build(config)
    state = checkpoint.layout(layout)["state_dict"]
    if layout != "classifier":
        state = {name.removeprefix("backbone."): value for name, value in state.items()}
    model.load_state_dict(state, strict=True)
    model.eval()
    return model


def test_the_encoder_gives_the_outputs_of_the_original():
    checkpoint = Checkpoint.of(TRUNK, img_size=SIZE)
    assert checkpoint.mask == dict(type="xtra_toolkit.PrefixCausal")
    vit = loaded(checkpoint, "encoder", **ENCODER)
    torch.testing.assert_close(vit(IMAGES)[0], GOLDEN["out_bidirectional"], atol=5e-6, rtol=0)


def test_another_mask_can_be_given():
    checkpoint = Checkpoint.of(TRUNK, dict(type="xtra_toolkit.TokenCausal"), SIZE)
    vit = loaded(checkpoint, "encoder", **ENCODER)
    torch.testing.assert_close(vit(IMAGES)[0], GOLDEN["out_causal"], atol=5e-6, rtol=0)


def test_positions_are_those_of_224_px_or_of_the_given_size():
    grid = Checkpoint.of(TRUNK).grid
    assert (grid.rows, grid.cols) == (28, 28)  # patches of 8
    wide = Checkpoint.of(TRUNK, img_size=(64, 128))
    vit = loaded(wide, "encoder", **{**ENCODER, "img_size": (64, 128)})
    images = IMAGES.repeat(1, 1, 1, 2)
    first = torch.arange(64).view(8, 8) + 8 * torch.arange(8)[:, None]  # its left half
    tokens = vit.embed(images, first.view(1, -1), vit.grid)
    torch.testing.assert_close(tokens, GOLDEN["tokens"], atol=5e-6, rtol=0)
    with pytest.raises(ValueError, match="patches of 8×8 px do not tile an image of 60×64 px"):
        Checkpoint.of(TRUNK, img_size=(60, 64))


def test_stock_vits_give_the_outputs_of_the_original():
    checkpoint = Checkpoint.of(TRUNK, img_size=SIZE)
    stock = dict(type="mmpretrain.VisionTransformer", with_cls_token=False, out_type="raw")
    vit = loaded(checkpoint, "mmpretrain", **stock, **SHAPE, qkv_bias=False)
    torch.testing.assert_close(vit(IMAGES)[0], GOLDEN["out_bidirectional"], atol=5e-6, rtol=0)
    vit = timm.models.VisionTransformer(**TIMM, **NO_BIAS, class_token=False, global_pool="")
    vit.load_state_dict(checkpoint.layout("timm")["state_dict"], strict=True)
    out = vit.eval()(IMAGES)
    torch.testing.assert_close(out, GOLDEN["out_bidirectional"], atol=5e-6, rtol=0)


def aims_head(x):
    """Run AIM's AttentionPoolingClassifier on tokens (B, N, D), written from its description."""
    w = {name.removeprefix("head."): value for name, value in HEAD.items()}
    x = (x - w["bn.running_mean"]) / (w["bn.running_var"] + 1e-6).sqrt()
    split = [
        t.unflatten(-1, (3, 16)).transpose(1, 2)
        for t in (w["cls_token"].expand(len(x), 1, 48), x @ w["k.weight"].T, x @ w["v.weight"].T)
    ]
    pooled = F.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2).mean(1)
    return pooled @ w["linear.weight"].T


def test_the_probe_head_gives_the_logits_of_the_original():
    checkpoint = Checkpoint.of({**TRUNK, **HEAD}, img_size=SIZE)
    layers, probe = [-2, -1], dict(type="xtra_toolkit.AttentiveProbe", num_heads=3, bias=False)
    encoder = dict(ENCODER, out_indices=layers, final_norm=False)
    model = loaded(
        checkpoint,
        "classifier",
        type="mmpretrain.ImageClassifier",
        data_preprocessor=dict(type="mmpretrain.ClsDataPreprocessor"),
        backbone=dict(encoder, out_type="featmap"),
        neck=dict(type="xtra_toolkit.AverageLayers"),
        head=dict(
            type="xtra_toolkit.ProbeSweep",
            num_classes=10,
            in_channels=48,
            rates=[1e-3],
            probe=probe,
        ),
    )
    raw = MODELS.build(encoder)
    raw.load_state_dict(model.backbone.state_dict())
    with torch.no_grad():
        logits = aims_head(torch.stack(raw.eval()(IMAGES)).mean(0))
        scores = [s.pred_score for s in model.predict(IMAGES, [DataSample(), DataSample()])]
    torch.testing.assert_close(torch.stack(scores), logits.softmax(-1), atol=1e-6, rtol=0)
    assert logits.softmax(-1).std() > 0.05  # the classes differ


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Checkpoint.of(TRUNK).layout("pretrainer"), "an encoder and no head; take layout"),
        (lambda: Checkpoint.of(TRUNK).layout("classifier"), "separate file, name it with --head"),
        (lambda: Checkpoint.of(HEAD), "no encoder was found; known are .*AIM v1.*head.cls_token"),
        (
            lambda: Checkpoint.of({**TRUNK, "trunk.blocks.0.mlp.fc3.weight": torch.ones(1)}),
            r"ours has no place for 1 of the parameters, read as those of apple/ml-aim, AIM v1; "
            r"the first: 'trunk.blocks.0.mlp.fc3.weight'",  # a name of AIMv2
        ),
    ],
)
def test_bad_input_is_refused_with_a_message(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()
