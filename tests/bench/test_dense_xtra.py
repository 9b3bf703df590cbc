"""Test that the baseline of the benchmark computes what XTRA does (elad-amrani/xtra at e711fb5)."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from dense_xtra import DenseXTRA
from einops import rearrange
from helpers.golden_recipe import images, weight
from safetensors.torch import load_file
from torch import Tensor

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = json.loads((GOLDEN / "xtra_cases.json").read_text())
# The other four ask for what the baseline leaves out: look-ahead, L1, raw pixels, block orders.
EXPRESSIBLE = ["xtra_k2", "xtra_k1", "token_causal", "vit_h_like"]

TO_ORIGINAL = {
    r"^patch_embed": "enc.patch_embed.proj",
    r"^encoder": "enc",
    r"^decoder": "predictor",
    r"^projection": "proj.mlp",
    r"^head": "aim_proj.0.mlp",
    r"layers\.(\d+)\.(qkv|proj)": r"blocks.\1.attn.\2",
    r"layers\.(\d+)\.(fc[12])": r"blocks.\1.mlp.\2",
    r"layers": "blocks",
}


def original_name(name: str) -> str:
    for pattern, replacement in TO_ORIGINAL.items():
        name = re.sub(pattern, replacement, name)
    return name


def build(case: dict) -> DenseXTRA:
    return DenseXTRA(
        image=case["image"],
        patch=case["patch"],
        block=case["block"],
        **case["encoder"],
        projection_hidden=case["projection"]["hidden"],
        decoder_width=case["projection"]["out"],
        decoder_depth=case["decoder"]["depth"],
        decoder_heads=case["decoder"]["heads"],
        head_hidden=case["head_hidden"],
    )


def original_shape(name: str, param: Tensor, model: DenseXTRA) -> tuple[int, ...]:
    if name.endswith("pos_embed"):
        return (1, *param.shape)
    if name == "patch_embed.weight":
        return (len(param), param.shape[1] // model.patch**2, model.patch, model.patch)
    return tuple(param.shape)


def pixels_from_original(model: DenseXTRA, values: Tensor) -> Tensor:
    """Sort a block's pixels in the last dimension: (c, row, col) -> (t c p q)."""
    r, p = model.block, model.patch
    return rearrange(values, "... (c r p s q) -> ... (r s c p q)", r=r, s=r, p=p, q=p)


def from_original(name: str, value: Tensor, model: DenseXTRA) -> Tensor:
    """Return a weight or gradient of the original in the layout of the baseline's ``name``."""
    if name.endswith("pos_embed"):  # raster -> sequence order
        return value[0, model.sequence_order()]
    if name == "patch_embed.weight":  # a convolution -> a matrix
        return value.flatten(1)
    if name == "head.0.weight":  # columns (d, row, col) -> (t d)
        return rearrange(value, "h (d t) -> h (t d)", t=model.block_tokens)
    if name == "head.2.weight":
        return pixels_from_original(model, value.T).T
    if name == "head.2.bias":
        return pixels_from_original(model, value)
    return value


@torch.no_grad()
def load_original(model: DenseXTRA, read: Callable[[str, tuple[int, ...]], Tensor]) -> None:
    """Fill ``model``; ``read`` returns the original's tensor of a name and a shape."""
    for name, param in model.named_parameters():
        value = read(original_name(name), original_shape(name, param, model))
        param.copy_(from_original(name, value, model))


def assert_close(actual: Tensor, expected: Tensor, within: float) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=within)


@pytest.fixture
def k2() -> tuple[DenseXTRA, dict[str, Tensor]]:
    model = build(CASES["xtra_k2"])
    weights = load_file(GOLDEN / "xtra_k2_weights.safetensors")
    assert {original_name(name) for name, _ in model.named_parameters()} == set(weights)
    load_original(model, lambda name, shape: weights[name])
    return model, load_file(GOLDEN / "xtra_k2_outputs.safetensors")


def test_outputs_equal_those_of_the_original(k2):
    model, golden = k2
    order = model.sequence_order()
    tokens = model.tokens(golden["images"])
    encoded = model.encode(tokens)
    decoded = model.decode(encoded)

    assert_close(encoded, golden["encoder_out"][:, order], 1e-5)
    assert_close(decoded, golden["decoder_out"][:, order], 1e-5)
    predictions = pixels_from_original(model, golden["predictions"][:, :-1])
    assert_close(model.predict(decoded), predictions, 1e-5)
    targets = pixels_from_original(model, golden["targets_normalised"][:, 1:])
    assert_close(model.targets(tokens), targets, 1e-5)


def test_loss_and_gradients_equal_those_of_the_original(k2):
    model, golden = k2
    loss = model(golden["images"])
    loss.backward()

    assert abs(loss.item() - golden["loss"].item()) < 5e-7
    for name, param in model.named_parameters():
        expected = from_original(name, golden[f"grad/{original_name(name)}"], model)
        assert_close(param.grad, expected, 1e-4 * expected.abs().max().item())


@pytest.mark.parametrize("name", EXPRESSIBLE)
def test_outputs_and_loss_equal_those_of_the_dense_code(name):
    case = CASES[name]
    model = build(case)
    load_original(model, weight)
    batch = images(case["image"])

    loss = model(batch)
    loss.backward()
    grad_norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm().item()
    encoded = model.encode(model.tokens(batch))

    assert abs(loss.item() - case["loss"]) < 5e-7
    assert grad_norm == pytest.approx(case["grad_norm"], rel=1e-6)
    assert encoded.abs().mean().item() == pytest.approx(case["encoder_out_mean_abs"], abs=1e-6)


def test_a_block_attends_to_itself_and_all_earlier_blocks():
    model = DenseXTRA(image=32, patch=8, block=2, width=8, depth=1, heads=1, decoder_depth=1)
    assert model.sequence_order().tolist() == [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15]
    blocks = torch.ones(4, 4).tril().repeat_interleave(4, 0).repeat_interleave(4, 1).bool()
    assert torch.equal(model.mask, blocks)


def test_blocks_that_do_not_tile_the_image_are_refused():
    with pytest.raises(ValueError, match="3×3 tokens of 16 px do not tile an image of 256"):
        DenseXTRA(block=3)
