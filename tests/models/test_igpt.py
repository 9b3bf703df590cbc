"""Test iGPT's objective against a plain transcription, and the command that makes its colours."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from helpers import photographs
from helpers.builds import MASKS, arch, randomise
from mmpretrain.registry import MODELS

from xtra_toolkit.cli import main

COLOURS = np.random.default_rng(0).uniform(-1, 1, (8, 3))


@pytest.fixture
def clusters(tmp_path):
    np.save(tmp_path / "clusters.npy", COLOURS)
    return str(tmp_path / "clusters.npy")


def igpt(clusters, **backbone):
    backbone = dict(arch=arch(), img_size=4, patch_size=1, with_cls_token=True) | backbone
    return MODELS.build(
        dict(
            type="xtra_toolkit.MaskTargetPretrainer",
            mask=MASKS["token"],
            target_generator=dict(type="xtra_toolkit.NextColour", clusters=clusters),
            backbone=dict(type="xtra_toolkit.MaskedViT", **backbone),
            neck=None,
            head=dict(type="xtra_toolkit.PredictionHead", loss="cross_entropy"),
        )
    )


def test_the_loss_is_the_mean_over_all_pixels_and_the_start_token_predicts_the_first(clusters):
    model, images = randomise(igpt(clusters)), torch.rand(2, 3, 4, 4) * 2 - 1
    pixels = images.flatten(2).transpose(1, 2).double()
    ids = ((pixels[:, :, None] - torch.tensor(COLOURS)) ** 2).sum(-1).argmin(-1)

    vit = model.backbone
    x = F.linear(pixels.float(), vit.patch_embed.projection.weight.flatten(1))
    x = x + vit.patch_embed.projection.bias
    x = torch.cat([vit.cls_token.expand(2, -1, -1), x[:, :-1]], 1) + vit.pos_embed[:, :16]
    causal = torch.ones(16, 16, dtype=torch.bool).tril()
    for layer in vit.layers:
        q, k, v = (
            part.unflatten(-1, (3, 16)).transpose(1, 2)
            for part in layer.attn.qkv(layer.ln1(x)).chunk(3, -1)
        )
        out = F.scaled_dot_product_attention(q, k, v, causal).transpose(1, 2).flatten(2)
        x = x + layer.attn.proj(out)
        x = layer.ffn(layer.ln2(x), identity=x)
    logits = model.head.predictors[0](vit.ln1(x))
    expected = F.cross_entropy(logits.flatten(0, 1), ids.flatten())

    torch.testing.assert_close(model.loss(images)["loss"], expected)
    assert model.objective.bounds.num_computed == 16  # the start token and all pixels but the last
    assert logits.shape == (2, 16, 8)


def test_a_pixel_does_not_move_its_own_prediction(clusters):
    model = randomise(igpt(clusters))
    images = torch.rand(1, 3, 4, 4, requires_grad=True)
    (logits,) = model.reconstruct(images, model.plan(images))
    (grad,) = torch.autograd.grad(logits[0, 5].sum(), images)
    touched = grad.abs().sum((0, 1)).flatten().nonzero().flatten().tolist()
    assert touched == [0, 1, 2, 3, 4]


def test_refusals(clusters, tmp_path):
    with pytest.raises(ValueError, match=r"no file of colour clusters.*xtra clusters"):
        igpt(str(tmp_path / "absent.npy"))
    with pytest.raises(ValueError, match=r"predicts single pixels \(patch_size=1\)"):
        igpt(clusters, patch_size=2)
    np.save(tmp_path / "flat.npy", np.zeros(5))
    with pytest.raises(ValueError, match=r"shape \(5,\); colour clusters are a table"):
        igpt(str(tmp_path / "flat.npy"))
    with pytest.raises(ValueError, match="without a neck nothing stands"):
        model = igpt(clusters)
        MODELS.build(
            dict(
                type="xtra_toolkit.MaskTargetPretrainer",
                mask=MASKS["shown"],
                target_generator=dict(type="xtra_toolkit.MaskedPatches"),
                backbone=dict(type="xtra_toolkit.MaskedViT", arch=arch(), img_size=64),
                neck=None,
                head=dict(type="xtra_toolkit.PredictionHead"),
            )
        )
    with pytest.raises(ValueError, match="class token does not see the whole image"):
        model.backbone.out_type = "cls_token"
        model.backbone(torch.rand(1, 3, 4, 4))


def test_clusters_are_colours_of_the_images(tmp_path):
    photos = photographs.write(tmp_path / "photos", 3)
    target = tmp_path / "clusters.npy"
    command = ["clusters", str(photos), str(target), "--number", "16", "--size", "8"]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0 and "16 colours of 192 pixels" in done.output, done.output
    table = np.load(target)
    assert table.shape == (16, 3) and table.dtype == np.float32
    assert table.min() >= -1 and table.max() <= 1 and len(np.unique(table, axis=0)) == 16
    assert "exists" in CliRunner().invoke(main, command).output
    few = ["clusters", str(photos), str(tmp_path / "x.npy"), "--size", "2"]
    assert "fewer than 512 different colours" in CliRunner().invoke(main, few).output


def test_clusters_are_rgb(tmp_path):
    from PIL import Image

    for i, colour in enumerate([(255, 0, 0), (0, 0, 255)]):
        Image.new("RGB", (4, 4), colour).save(tmp_path / f"{i}.png")
    command = ["clusters", str(tmp_path), str(tmp_path / "c.npy"), "--number", "2", "--size", "4"]
    assert CliRunner().invoke(main, command).exit_code == 0
    assert sorted(np.load(tmp_path / "c.npy").tolist()) == [[-1, -1, 1], [1, -1, -1]]
