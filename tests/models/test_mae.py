"""Test parity with the installed MAE of MMPretrain: loss and every gradient, in float64."""

import pytest
import torch
from einops import rearrange
from helpers.builds import arch, pretrainer, randomise
from mmpretrain.registry import MODELS

PATCH, WIDTH, DECODER = 16, 48, 32


def mmpretrains(image):
    """Build MMPretrain's MAE with random parameters."""
    model = MODELS.build(
        dict(
            type="mmpretrain.MAE",
            data_preprocessor=dict(type="mmpretrain.SelfSupDataPreprocessor"),
            backbone=dict(type="mmpretrain.MAEViT", arch=arch(), img_size=image, patch_size=PATCH),
            neck=dict(
                type="mmpretrain.MAEPretrainDecoder",
                num_patches=(image // PATCH) ** 2,
                patch_size=PATCH,
                embed_dim=WIDTH,
                decoder_embed_dim=DECODER,
                decoder_depth=2,
                decoder_num_heads=2,
            ),
            head=dict(
                type="mmpretrain.MAEPretrainHead",
                norm_pix=True,
                patch_size=PATCH,
                loss=dict(type="mmpretrain.PixelReconstructionLoss", criterion="L2"),
            ),
        )
    ).double()
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.2 * torch.randn(p.shape, generator=g, dtype=torch.float64))
    return model


def our_name(name):
    """Convert a parameter of MMPretrain's MAE to that of the pretrainer."""
    for old, new in (
        ("neck.decoder_embed.", "neck.projection."),
        ("neck.decoder_pos_embed", "neck.pos_embed"),
        ("neck.decoder_blocks.", "neck.layers."),
        ("neck.decoder_pred.", "head.predictors.0."),
        ("neck.ln1.", "neck.ln1."),
    ):
        name = name.replace(old, new)
    return name


def token_major(name, value):
    """Reorder MMPretrain's pixels (row, column, channel) to (channel, row, column)."""
    if "decoder_pred" in name:
        return rearrange(value, "(p q c) ... -> (c p q) ...", p=PATCH, q=PATCH)
    return value


@pytest.mark.parametrize("image", [224, 256])
def test_loss_and_every_gradient(image):
    theirs = mmpretrains(image)
    ours = pretrainer(
        "shown",
        "masked",
        image=image,
        patch=PATCH,
        with_cls_token=True,
        decoder=dict(projection=None, width=DECODER),
        head=dict(hidden=None),
    ).double()
    state = {our_name(n): token_major(n, p.detach()) for n, p in theirs.named_parameters()}
    missing, unexpected = ours.load_state_dict(state, strict=False)
    assert not unexpected and not set(missing) & {n for n, _ in ours.named_parameters()}

    images = torch.randn(2, 3, image, image, dtype=torch.float64)
    torch.manual_seed(5)  # both shuffle by the same numbers
    loss = theirs.loss(images, None)["loss"]
    loss.backward()
    plan = ours.objective(2, images.device, torch.Generator().manual_seed(5))
    mine = ours._loss(images, plan)["loss"]
    mine.backward()
    torch.testing.assert_close(mine, loss, rtol=1e-10, atol=0)
    gradients = {n: p.grad for n, p in ours.named_parameters()}
    for name, parameter in theirs.named_parameters():
        if parameter.requires_grad:  # their position tables are fixed
            grad = token_major(name, parameter.grad)
            error = (gradients[our_name(name)] - grad).abs().max()
            assert error <= 1e-10 * grad.abs().max(), name


def test_it_trains_on_rectangles_of_four_channels_which_mmpretrains_cannot():
    """Check that the loss compares the predictions of hidden patches and reaches all weights."""
    size = dict(image=(256, 192), patch=PATCH, with_cls_token=True, in_channels=4)
    model, images = randomise(pretrainer("shown", "masked", **size)), torch.randn(2, 4, 256, 192)
    plan = model.plan(images)
    (prediction,), (goal,) = model.reconstruct(images, plan), model.target_values(images, plan)
    rows, cols = 256 // PATCH, 192 // PATCH
    hidden = rows * cols - rows * cols // 4
    assert prediction.shape == goal.shape == (2, hidden, PATCH * PATCH * 4)
    model.plan = lambda *_: plan  # the mask of the prediction above
    loss = model.loss(images)["loss"]
    torch.testing.assert_close(loss, (prediction - goal).square().mean())
    loss.backward()
    assert all(p.grad.abs().sum() > 0 for p in model.parameters() if p.requires_grad)
