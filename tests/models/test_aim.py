"""Test parity with the trunk of AIM v1 (apple/ml-aim at bd9e068), and what the loss covers."""

from pathlib import Path

import pytest
import torch
from helpers.builds import AIM, arch, pretrainer, randomise
from safetensors.torch import load_file

from xtra_toolkit.attention.pattern import Pattern
from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.masks import Bidirectional, PrefixCausal, TokenCausal
from xtra_toolkit.models.positions import sincos
from xtra_toolkit.objective.draw import compile_features
from xtra_toolkit.objective.plan import Features
from xtra_toolkit.objective.reach import compute_kv_lengths

GOLDEN = load_file(Path(__file__).parents[1] / "golden" / "aim_trunk.safetensors")
NAMES = {
    "preprocessor.patchifier.proj": "patch_embed.projection",
    "preprocessor.patchifier.norm": "patch_embed.norm",
    "trunk.post_trunk_norm": "ln1",
    "trunk.blocks": "layers",
    "norm_": "ln",
    "mlp.fc1": "ffn.layers.0.0",
    "mlp.fc2": "ffn.layers.1",
}
ENCODER = dict(
    arch=arch(depth=3),
    positions="sincos",
    bias=False,
    patch_cfg=dict(norm_cfg=dict(type="LN", eps=1e-6)),
)


@pytest.fixture(scope="module")
def trunk():
    vit = pretrainer(*AIM, **ENCODER).backbone.eval()
    state = {}
    for name, value in GOLDEN.items():
        if name.startswith("weight/"):
            for old, new in NAMES.items():
                name = name.replace(old, new)
            state[name.removeprefix("weight/")] = value
    missing, unexpected = vit.load_state_dict(state, strict=False)
    assert (missing, unexpected) == (["pos_embed"], [])  # fixed, and in no file of AIM's
    return vit


def outputs(vit, mask):
    """Return all outputs of the trunk under a mask, (B, N, D) in raster order."""
    n = vit.grid.tokens
    if mask.step.ndim == 1:
        features = compile_features(mask, vit.grid)
    else:
        features = Features(
            mask.order[None], Pattern("staircase", n, compute_kv_lengths(mask)), mask.order[None]
        )
    vit._features = {(vit.grid, torch.device("cpu"), str(vit.encoder_mask.config)): features}
    with torch.no_grad():
        return vit(GOLDEN["images"])[0]


def test_tokens(trunk):
    grid = trunk.grid
    tokens = trunk.embed(GOLDEN["images"], torch.arange(grid.tokens)[None], grid)
    torch.testing.assert_close(tokens, GOLDEN["tokens"], rtol=0, atol=5e-6)


@pytest.mark.parametrize(
    ("case", "mask"),
    [
        ("causal", TokenCausal()),
        ("bidirectional", Bidirectional()),
        (
            "prefix_5_and_20",
            lambda grid: PrefixCausal().with_prefix(grid, torch.tensor([[5], [20]])),
        ),
    ],
)
def test_outputs(trunk, case, mask):
    out = outputs(trunk, mask(trunk.grid))
    torch.testing.assert_close(out, GOLDEN[f"out_{case}"], rtol=0, atol=5e-6)


def test_sincos_positions_have_the_column_first():
    table = sincos(PatchGrid(2, 3, extra=1), 8)[0]
    assert table[0].eq(0).all()
    column_2_row_1 = [2, 2 / 100, 2, 2 / 100, 1, 1 / 100, 1, 1 / 100]
    angles = torch.tensor(column_2_row_1).view(2, 2, 2)
    expected = torch.stack([angles[:, 0].sin(), angles[:, 1].cos()], 1).flatten()
    torch.testing.assert_close(table[1 + 5], expected)


def aim(**head):
    return pretrainer(
        *AIM,
        **ENCODER,
        decoder=dict(
            width=64, depth=2, heads=None, projection=None, positions="sincos", bias=False
        ),
        head=dict(hidden=None) | head,
    )


def test_the_head_uses_each_token_alone():
    model = randomise(aim())
    x = torch.randn(1, 63, 48, requires_grad=True)
    plan = model.objective(1, x.device, torch.Generator())
    model.neck(x, plan)[0, 7].sum().backward()
    assert x.grad.abs().sum(-1)[0].nonzero().flatten().tolist() == [7]


def test_no_linear_but_the_projection_and_the_prediction_has_a_bias():
    names = [n for n, _ in aim().named_parameters() if n.endswith("bias")]
    linear = [n for n in names if ".ln" not in n and ".norm" not in n]
    assert linear == [
        "backbone.patch_embed.projection.bias",
        "neck.projection.bias",
        "head.predictors.0.bias",
    ]


def test_positions_are_fixed_and_initialised_again():
    model = aim()
    table = model.backbone.pos_embed.clone()
    model.init_weights()
    torch.testing.assert_close(model.backbone.pos_embed, table)
    torch.testing.assert_close(table, sincos(model.backbone.grid, 48))
    assert not model.backbone.pos_embed.requires_grad and not model.neck.pos_embed.requires_grad


def test_a_target_inside_the_prefix_is_never_scored_and_the_last_prefix_output_is_the_first():
    """Move each target with fixed predictions: only those behind the prefix change the loss."""
    model = randomise(aim())
    images = torch.randn(2, 3, 64, 64)
    plan = model.objective(2, images.device, torch.Generator().manual_seed(3))
    prefix = model.objective.mask(model.backbone.grid, 2, torch.Generator().manual_seed(3)).context
    (group,) = plan.groups
    with torch.no_grad():
        (predictions,), (target_values,) = (
            model.reconstruct(images, plan),
            model.target_values(images, plan),
        )
    target_values.requires_grad_()
    loss = model.head.reduce(predictions, target_values, group.loss_mask)
    (grad,) = torch.autograd.grad(loss, target_values)
    for i in range(2):
        p = int(prefix[i].sum())
        scored = grad[i].abs().sum(-1).nonzero().flatten()
        assert group.source_positions[0, scored, 0].tolist() == list(range(p - 1, 63))
        assert group.tokens[0, scored, 0].tolist() == list(range(p, 64))
