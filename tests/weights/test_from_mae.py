"""Test conversion of facebookresearch/mae's and MMPretrain's MAE against MMPretrain's own model."""

import copy
import re

import pytest
import torch
from helpers.builds import arch, pretrainer
from mmpretrain.registry import MODELS

from xtra_toolkit.models.positions import sincos
from xtra_toolkit.weights.checkpoint import Checkpoint
from xtra_toolkit.weights.sources import to_ours

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
MAE = dict(type="xtra_toolkit.RandomShown", mask_ratio=0.75)
# MMPretrain's names to those of facebookresearch/mae, read in its models_mae.py
FACEBOOK = (
    (r"ffn\.layers\.0\.0\.", "mlp.fc1."),
    (r"ffn\.layers\.1\.", "mlp.fc2."),
    (r"(layers|blocks)\.(\d)\.ln", r"blocks.\2.norm"),
    (r"backbone\.layers\.", "blocks."),
    (r"backbone\.ln1\.", "norm."),
    (r"neck\.ln1\.", "decoder_norm."),
    (r"(backbone|neck)\.", ""),
    (r"projection", "proj"),
)


@pytest.fixture(scope="module")
def theirs():
    """Return a small MAE of MMPretrain: positions by its init_weights, other weights random."""
    model = MODELS.build(
        dict(
            type="mmpretrain.MAE",
            data_preprocessor=dict(type="mmpretrain.SelfSupDataPreprocessor"),
            backbone=dict(type="mmpretrain.MAEViT", arch=arch(), img_size=64, patch_size=8),
            neck=dict(
                type="mmpretrain.MAEPretrainDecoder",
                num_patches=64,
                patch_size=8,
                embed_dim=48,
                decoder_embed_dim=32,
                decoder_depth=2,
                decoder_num_heads=2,
            ),
            head=dict(
                type="mmpretrain.MAEPretrainHead",
                norm_pix=True,
                patch_size=8,
                loss=dict(type="mmpretrain.PixelReconstructionLoss", criterion="L2"),
            ),
        )
    )
    model.init_weights()
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "pos_embed" not in name:
                p.copy_(0.2 * torch.randn(p.shape, generator=g) + (".ln" in name))
    return model.eval()


def facebooks(model):
    """Return the same weights under the names of facebookresearch/mae."""
    state = {}
    for name, value in model.state_dict().items():
        for old, new in FACEBOOK:
            name = re.sub(old, new, name)
        state[name] = value
    return state


def column_first(table):
    """Convert a square fixed table from MMPretrain's order, row first, to MAE's."""
    return torch.cat(table.chunk(2, dim=-1)[::-1], dim=-1)


def encoder(state, **args):
    """Return an encoder of the fixture's shape that has loaded the whole state of a layout."""
    shape = dict(arch=arch(), img_size=64, patch_size=8, with_cls_token=True)
    vit = MODELS.build(dict(type="xtra_toolkit.MaskedViT", **shape, **args))
    state = {name.removeprefix("backbone."): value for name, value in state.items()}
    vit.load_state_dict(state, strict=True)
    return vit.eval()


SOURCES = {"mmpretrain": lambda model: model.state_dict(), "facebook": facebooks}


@pytest.mark.parametrize("source", SOURCES)
def test_the_pretrainer_gives_the_loss_of_the_original(theirs, source):
    checkpoint = Checkpoint.of(SOURCES[source](theirs))
    assert checkpoint.mask == MAE
    fixed = dict(positions="sincos")
    ours = pretrainer(
        "shown",
        "masked",
        with_cls_token=True,
        decoder=dict(projection=None, **fixed),
        head=dict(hidden=None),
        **fixed,
    )
    ours.load_state_dict(checkpoint.layout("pretrainer")["state_dict"], strict=True)
    torch.manual_seed(5)  # both shuffle by the same numbers
    loss = theirs.loss(IMAGES, None)["loss"]
    plan = ours.objective(2, IMAGES.device, torch.Generator().manual_seed(5))
    torch.testing.assert_close(ours._loss(IMAGES, plan)["loss"], loss, atol=0, rtol=1e-6)


@pytest.mark.parametrize("source", SOURCES)
def test_the_positions_in_the_file_replace_those_of_the_model(theirs, source, tmp_path):
    content = Checkpoint.of(SOURCES[source](theirs)).layout("encoder")
    torch.save(content, tmp_path / "mae.pth")
    init = dict(type="Pretrained", checkpoint=str(tmp_path / "mae.pth"), prefix="backbone.")
    vit = encoder(content["state_dict"], positions="sincos", init_cfg=init)
    vit.init_weights()  # as a runner does, which must not put the model's own back
    torch.testing.assert_close(vit(IMAGES)[0], theirs.extract_feat(IMAGES)[0], atol=1e-5, rtol=0)
    own = sincos(vit.grid, 48)
    torch.testing.assert_close(column_first(vit.pos_embed), own, atol=1e-6, rtol=0)
    vit.pos_embed.data.copy_(own)  # the model's own table gives other features
    assert (vit(IMAGES)[0] - theirs.extract_feat(IMAGES)[0]).abs().max() > 0.1


def test_an_encoder_without_a_decoder_is_recognised_by_its_positions(theirs):
    """The published mae_pretrain_vit_base.pth holds no decoder."""
    names = ("cls_token", "pos_embed", "patch_embed.", "blocks.", "norm.")
    twin = copy.deepcopy(theirs)
    twin.backbone.pos_embed.data.copy_(column_first(twin.backbone.pos_embed))
    masks = []
    for model in (theirs, twin):
        state = {n: v for n, v in facebooks(model).items() if n.startswith(names)}
        checkpoint = Checkpoint.of(state)
        masks.append(checkpoint.mask)
    assert masks == [dict(type="xtra_toolkit.Bidirectional"), MAE]
    vit = encoder(checkpoint.layout("encoder")["state_dict"], positions="sincos")
    torch.testing.assert_close(vit(IMAGES)[0], twin.extract_feat(IMAGES)[0], atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="an encoder and no head; take layout 'encoder'"):
        checkpoint.layout("pretrainer")


def test_a_fine_tuned_model_is_converted_without_its_classifier(theirs):
    names = ("cls_token", "pos_embed", "patch_embed.", "blocks.")
    state = {n: v for n, v in facebooks(theirs).items() if n.startswith(names)}
    tuned = {"fc_norm.weight": torch.ones(48), "fc_norm.bias": torch.zeros(48)}
    tuned |= {"head.weight": torch.ones(10, 48), "head.bias": torch.ones(10)}
    state["pos_embed"] = column_first(state["pos_embed"])
    checkpoint = Checkpoint.of(state | tuned)
    assert checkpoint.mask == dict(type="xtra_toolkit.Bidirectional")
    assert checkpoint.note == "the classifier (head) is left out"
    vit = encoder(
        checkpoint.layout("encoder")["state_dict"], out_type="avg_featmap", final_norm=False
    )
    assert vit.ln2.weight.eq(1).all()


@pytest.mark.parametrize("source", SOURCES)
def test_parameters_without_a_counterpart_are_refused(theirs, source):
    name = dict(mmpretrain="neck.decoder_pred", facebook="decoder_pred")[source]
    state = {**SOURCES[source](theirs), f"{name}.scale": torch.ones(1), "teacher": torch.ones(1)}
    sentence = r"ours has no place for 1 of the parameters, .*; the first: 'teacher'"
    with pytest.raises(ValueError, match=sentence):
        to_ours(state)
