"""Test parameters, FLOPs and back ends against formulas worked out by hand."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch

from xtra_toolkit.visualization.objectives import cost
from xtra_toolkit.visualization.objectives.build import build, read_config

ROOT = Path(__file__).parents[3] / "mmconfigs"


def parts(config, *options):
    model = build(read_config(ROOT / config, options))
    assert all(p.is_meta for p in model.parameters())  # nothing is allocated
    return {part.name: part for part in cost.parts(model, "cpu")}


def linear(rows, *widths):
    """Compute the FLOPs of consecutive linear layers."""
    return sum(2 * rows * i * o for i, o in pairwise(widths))


def layers(depth, rows, width):
    """Compute the FLOPs of pre-norm layers whose MLP has four times the width."""
    attention = 2 * (2 * rows * rows * width)
    inside = linear(rows, width, 3 * width) + linear(rows, width, width)
    return depth * (attention + inside + linear(rows, width, 4 * width, width))


def unread(rows, keys, width):
    """Compute the FLOPs saved at unread positions of the last layer: all but keys and values."""
    attention = 2 * (2 * rows * keys * width)
    return attention + 2 * linear(rows, width, width) + linear(rows, width, 4 * width, width)


def test_the_flops_of_the_demo_are_those_of_the_formula():
    """The grid has 8×8 tokens of one value; 60 are computed; 4 outputs predict 4 values."""
    found = parts("demo/xtra_digits.py")
    assert found["encoder"].flops == linear(60, 1, 64) + layers(4, 60, 64)
    assert found["decoder"].flops == linear(60, 64, 256, 48) + layers(2, 60, 48)
    assert found["head"].flops == linear(15, 4 * 48, 512, 4)


def test_the_flops_of_maes_encoder_are_those_of_the_visible_tokens():
    found = parts("mae_vit-b16.py")
    # the class token is embedded like a patch, and replaced
    assert found["encoder"].flops == linear(50, 768, 768) + layers(12, 50, 768)
    assert found["decoder"].flops == linear(50, 768, 512) + layers(8, 197, 512) - unread(
        50, 197, 512
    )
    assert found["head"].flops == linear(147, 512, 768)
    assert (found["encoder"].places, found["decoder"].places) == ("50 of 197", "197 of 197")


def test_mask_tokens_are_computed_like_patches():
    """The last layer computes the hidden positions alone, since there is no decoder."""
    found = parts("maskfeat_vit-b16.py")
    rest = 197 - 78
    expected = linear(197, 768, 768) + layers(12, 197, 768) - unread(rest, 197, 768)
    assert found["encoder"].flops == expected and found["encoder"].places == "197 of 197"
    assert found["head"].flops == linear(78, 768, 108) and "decoder" not in found


def test_relative_positions_run_on_sdpa():
    found = parts("maskfeat_vit-b16.py", "model.backbone.positions=relative")
    assert found["encoder"].attention == "full, sdpa"
    matmul = ("model.backbone.positions=relative", "model.backbone.attention=matmul")
    found = parts("maskfeat_vit-b16.py", *matmul)
    assert "matmul cannot serve: relative positions add" in found["encoder"].attention


def test_xtra_b_has_the_parameters_of_a_vit_b_and_computes_240_of_256():
    found = parts("xtra_vit-b16.py")
    width, layer = 768, 2 * 2 * 768 + (768 + 1) * 3 * 768 + (768 + 1) * 768
    layer += (768 + 1) * 3072 + (3072 + 1) * 768
    vit = 12 * layer + 2 * width + (16 * 16 * 3 + 1) * width + 256 * width
    assert found["encoder"].parameters == vit == 85_843_200
    assert found["head"].parameters == (16 * 768 + 1) * 6144 + (6144 + 1) * 16 * 768
    assert found["encoder"].places == found["decoder"].places == "240 of 256"
    assert found["head"].places == "15 predictions"


def test_the_predictions_of_every_mask_of_an_image_are_counted(tmp_path):
    """With two masks an image the encoder runs once, decoder and head twice."""
    config = tmp_path / "two.py"
    config.write_text(
        f"_base_ = [{str(ROOT / 'demo' / 'xtra_digits.py')!r}]\n"
        "model = dict(mask=dict(_delete_=True, type='test_view.TwoMasks'),\n"
        "    target_generator=dict(_delete_=True, type='xtra_toolkit.MaskedPatches',\n"
        "        normalise=False), backbone=dict(img_size=4))\n"
    )
    found = parts(config)
    assert found["head"].places == "12 predictions"
    assert found["encoder"].flops == linear(4, 1, 64) + layers(4, 4, 64)
    # the projection is applied after the encoder's tokens are repeated
    once = linear(4, 64, 256, 48) + layers(2, 10, 48) - unread(4, 10, 48)
    assert found["decoder"].flops == 2 * once


def test_the_back_end_is_the_one_that_attention_chooses(monkeypatch):
    asked = []
    monkeypatch.setattr(cost, "choose", lambda q, pattern: asked.append((q, pattern)) or "chosen")
    found = parts("demo/xtra_digits.py")
    assert found["encoder"].attention == found["decoder"].attention == "staircase, chosen"
    assert [tuple(q.shape) for q, _ in asked] == [(2, 60, 4, 16), (2, 60, 4, 12)]
    assert all(q.requires_grad and q.dtype == torch.float32 for q, _ in asked)


@pytest.mark.parametrize(
    ("option", "encoder"),
    [
        ("model.backbone.attention=eager", "staircase, eager"),
        ("model.mask.block_size=1", "causal, sdpa"),
        ("model.backbone.attention=xformers", "staircase, xformers cannot serve: "),
    ],
)
def test_the_back_end_that_the_config_names(option, encoder):
    assert parts("demo/xtra_digits.py", option)["encoder"].attention.startswith(encoder)


def test_layers_without_attention_are_reported():
    found = parts("aim_vit-600m-p14.py", "model.backbone.arch.num_layers=1")
    assert found["decoder"].attention == "none, each token on its own"
