"""Test layer fusion, and parity with MMPretrain's MFF: loss and every gradient, in float64."""

import pytest
import torch
from einops import rearrange
from helpers.builds import arch, pretrainer, randomise
from mmpretrain.registry import MODELS

from xtra_toolkit.weights.encoder import load_vit
from xtra_toolkit.weights.sources import without_prefix

PATCH, WIDTH, DECODER = 16, 48, 32
SMALL = dict(arch=arch(depth=4), image=32, patch=8)


def mmpretrains():
    vit = dict(arch=arch(depth=4), img_size=64, patch_size=PATCH, out_indices=[0, 2, 3])
    decoder = dict(embed_dim=WIDTH, decoder_embed_dim=DECODER, decoder_depth=2, patch_size=PATCH)
    loss = dict(type="mmpretrain.PixelReconstructionLoss", criterion="L2")
    model = dict(
        type="mmpretrain.MFF",
        data_preprocessor=dict(type="mmpretrain.SelfSupDataPreprocessor"),
        backbone=dict(type="mmpretrain.MFFViT", **vit),
        neck=dict(
            type="mmpretrain.MAEPretrainDecoder", num_patches=16, decoder_num_heads=2, **decoder
        ),
        head=dict(type="mmpretrain.MAEPretrainHead", norm_pix=True, patch_size=PATCH, loss=loss),
    )
    model, g = MODELS.build(model).double(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.2 * torch.randn(p.shape, generator=g, dtype=torch.float64))
    return model


def our_name(name):
    for old, new in (
        ("backbone.proj_layers.", "backbone.fusion.projections."),
        ("backbone.proj_weights", "backbone.fusion.weights"),
        ("neck.decoder_embed.", "neck.projection."),
        ("neck.decoder_pos_embed", "neck.pos_embed"),
        ("neck.decoder_blocks.", "neck.layers."),
        ("neck.decoder_pred.", "head.predictors.0."),
    ):
        name = name.replace(old, new)
    return name


def token_major(name, value):
    if "decoder_pred" in name:
        return rearrange(value, "(p q c) ... -> (c p q) ...", p=PATCH, q=PATCH)
    return value


def test_loss_and_every_gradient_equal_those_of_mmpretrain():
    theirs = mmpretrains()
    ours = pretrainer(
        "shown",
        "masked",
        image=64,
        patch=PATCH,
        with_cls_token=True,
        arch=arch(depth=4),
        fused_layers=[0, 2],
        decoder=dict(projection=None, width=DECODER),
        head=dict(hidden=None),
    ).double()
    state = {our_name(n): token_major(n, p.detach()) for n, p in theirs.named_parameters()}
    missing, unexpected = ours.load_state_dict(state, strict=False)
    assert not unexpected and not set(missing) & {n for n, _ in ours.named_parameters()}
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
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


def test_an_encoder_without_a_decoder_fuses_only_what_is_read():
    model = randomise(pretrainer("block", "block", fused_layers=[0], **SMALL)).double()
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    plan, positions = model.plan(images), torch.tensor([[3, 5]])
    some, every = (model.backbone.encode(images, plan, r) for r in (positions, None))
    torch.testing.assert_close(some, every[:, [3, 5]], rtol=1e-12, atol=1e-12)


def test_weights_are_equal_at_the_start_and_every_layer_counts():
    model = pretrainer("shown", "masked", fused_layers=[0, 1], **SMALL)
    model.init_weights()
    fusion, outputs = model.backbone.fusion, torch.randn(3, 2, 5, WIDTH)
    first, second = fusion.projections
    expected = (first(outputs[0]) + second(outputs[1]) + outputs[2]) / 3
    torch.testing.assert_close(fusion(list(outputs)), expected)
    assert fusion.weights.ndim == 4  # which the optimizer decays, as in MFF


def test_features_are_not_fused_and_probes_leave_the_fusion_out(tmp_path):
    """The checkpoint loads into an encoder without a fusion, and into one with the same."""
    model = randomise(pretrainer("shown", "masked", fused_layers=[0, 1], **SMALL))
    torch.save(dict(state_dict=model.state_dict()), tmp_path / "it.pth")
    init = dict(type="Pretrained", checkpoint=str(tmp_path / "it.pth"), prefix="backbone.")
    probe = MODELS.build(dict(type="xtra_toolkit.MaskedViT", init_cfg=init)).eval()
    probe.init_weights()
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(probe(images)[0], model.backbone(images)[0])
    vit, _ = load_vit(tmp_path / "it.pth")
    assert torch.equal(vit(images)[0], probe(images)[0])
    assert not [name for name in without_prefix(model.state_dict()) if "fusion" in name]
    again = pretrainer("shown", "masked", fused_layers=[0, 1], **SMALL)
    again.load_state_dict(model.state_dict())
    with pytest.raises(ValueError, match=r"'fusion.*fused_layers is another in this config"):
        again.backbone.load_state_dict(probe.state_dict())


@pytest.mark.parametrize("indices", [[3], [-1], [1, 0], [0, 0], ["a"]])
def test_layers_that_cannot_be_fused_are_refused(indices):
    with pytest.raises(ValueError, match=r"ascending indices of layers before the last one, 0 to"):
        pretrainer("shown", "masked", fused_layers=indices, **SMALL)
