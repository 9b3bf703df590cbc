"""Test parity with the original XTRA (elad-amrani/xtra at e711fb5): outputs, loss, gradients."""

import json
from pathlib import Path

import pytest
import torch
from einops import rearrange
from helpers.builds import arch, pretrainer
from helpers.golden_recipe import images, weight
from safetensors.torch import load_file

from xtra_toolkit.models.layers import gather_tokens
from xtra_toolkit.weights import xtra

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = json.loads((GOLDEN / "xtra_cases.json").read_text())


def model_of(case):
    """Build the model of a golden case as a config does."""
    mask = dict(type="xtra_toolkit.BlockCausal", block_size=case["block"])
    if case["mask"] == "token_causal":
        mask = dict(type="xtra_toolkit.TokenCausal")
    if "block_order" in case:
        mask["order"] = case["block_order"]
    return pretrainer(
        mask,
        dict(
            type="xtra_toolkit.NextBlock",
            look_ahead=case["look_ahead"],
            normalise=case["normalise_targets"],
        ),
        image=case["image"],
        patch=case["patch"],
        arch=arch(**case["encoder"]),
        decoder=dict(
            projection=case["projection"]["hidden"],
            width=case["projection"]["out"],
            **case["decoder"],
        ),
        head=dict(hidden=case["head_hidden"], loss=case["loss_type"]),
    )


def original_shapes(case):
    """Return names and shapes of the original parameters, for the recipe of the golden README."""
    c, p, k = case["encoder"]["width"], case["patch"], case["block"]
    w, hidden = case["projection"]["out"], case["projection"]["hidden"]
    n = (case["image"] // p) ** 2
    shapes = {
        "enc.pos_embed": (1, n, c),
        "enc.patch_embed.proj.weight": (c, 3, p, p),
        "enc.patch_embed.proj.bias": (c,),
        "proj.mlp.0.weight": (hidden, c),
        "proj.mlp.0.bias": (hidden,),
        "proj.mlp.2.weight": (w, hidden),
        "predictor.pos_embed": (1, n, w),
    }
    for part, width, depth in (
        ("enc", c, case["encoder"]["depth"]),
        ("predictor", w, case["decoder"]["depth"]),
    ):
        linears = dict(qkv=(3, 1), proj=(1, 1), fc1=(4, 1), fc2=(1, 4))
        for i in range(depth):
            for name, (out, into) in linears.items():
                stem = f"{part}.blocks.{i}.{'attn' if name in ('qkv', 'proj') else 'mlp'}.{name}"
                shapes[f"{stem}.weight"] = (out * width, into * width)
                shapes[f"{stem}.bias"] = (out * width,)
            for norm in ("norm1", "norm2"):
                shapes[f"{part}.blocks.{i}.{norm}.weight"] = (width,)
                shapes[f"{part}.blocks.{i}.{norm}.bias"] = (width,)
        shapes[f"{part}.norm.weight"] = shapes[f"{part}.norm.bias"] = (width,)
    out = 3 * (k * p) ** 2
    for i in range(case["look_ahead"]):
        shapes[f"aim_proj.{i}.mlp.0.weight"] = (case["head_hidden"], w * k * k)
        shapes[f"aim_proj.{i}.mlp.0.bias"] = (case["head_hidden"],)
        shapes[f"aim_proj.{i}.mlp.2.weight"] = (out, case["head_hidden"])
        shapes[f"aim_proj.{i}.mlp.2.bias"] = (out,)
    return shapes


def load(model, state):
    """Load converted weights, which must name every parameter of the model."""
    ours = xtra.to_ours(state).state
    missing, unexpected = model.load_state_dict(ours, strict=False)
    assert not unexpected
    assert not set(missing) & {n for n, _ in model.named_parameters()}
    return model


@pytest.mark.parametrize("name", CASES)
def test_loss_gradient_and_features_of_every_case(name):
    case = CASES[name]
    state = {n: weight(n, s) for n, s in original_shapes(case).items()}
    model, x = load(model_of(case), state), images(case["image"])
    loss = model.loss(x)["loss"]
    loss.backward()
    loss = loss.detach()
    norm = torch.stack([p.grad.double().norm() for p in model.parameters()]).norm()
    features = model.extract_feat(x)[0].detach().abs().mean()
    assert abs(float(loss) - case["loss"]) < 5e-7
    assert abs(float(norm) / case["grad_norm"] - 1) < 1e-6
    assert abs(float(features) - case["encoder_out_mean_abs"]) < 1e-6


@pytest.fixture(scope="module")
def k2():
    """Return the model with golden weights after a backward pass, and the stored numbers."""
    out = load_file(GOLDEN / "xtra_k2_outputs.safetensors")
    model = load(model_of(CASES["xtra_k2"]), load_file(GOLDEN / "xtra_k2_weights.safetensors"))
    loss = model.loss(out["images"])["loss"]
    loss.backward()
    return model, out, loss.detach()


def test_outputs_of_encoder_and_decoder(k2):
    model, out, _ = k2
    plan = model.plan(out["images"])
    x = model.backbone.encode(out["images"], plan)
    torch.testing.assert_close(x, gather_tokens(out["encoder_out"], plan.order), atol=1e-5, rtol=0)
    x = model.neck(x, plan)
    torch.testing.assert_close(x, gather_tokens(out["decoder_out"], plan.order), atol=1e-5, rtol=0)


def test_features_are_the_encoder_output_in_raster_order(k2):
    model, out, _ = k2
    torch.testing.assert_close(
        model.extract_feat(out["images"])[0], out["encoder_out"], atol=1e-5, rtol=0
    )


def test_predictions_and_normalised_targets(k2):
    model, out, _ = k2
    plan = model.plan(out["images"])

    def original(values):  # token-major to the original's (channel, row, column)
        return rearrange(values, "b g (r s c p q) -> b g (c r p s q)", r=2, s=2, c=3, p=8)

    for ours, golden in (
        (model.reconstruct(out["images"], plan)[0], out["predictions"][:, :-1]),
        (model.target_values(out["images"], plan)[0], out["targets_normalised"][:, 1:]),
    ):
        torch.testing.assert_close(original(ours), golden, atol=1e-5, rtol=0)


def test_every_gradient(k2):
    model, out, loss = k2
    assert abs(float(loss) - float(out["loss"])) < 5e-7
    golden = xtra.to_ours({n[5:]: g for n, g in out.items() if n.startswith("grad/")}).state
    ours = dict(model.named_parameters())
    assert golden.keys() == ours.keys()
    for name, g in golden.items():
        assert (ours[name].grad - g).abs().max() <= 1e-4 * g.abs().max(), name
