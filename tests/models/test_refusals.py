"""Test the messages of what the models refuse."""

import pytest
import torch
from helpers.builds import MASKS, XTRA, arch, pretrainer, randomise
from mmengine.runner import load_checkpoint
from mmpretrain.registry import MODELS

from xtra_toolkit import plugins


def test_a_checkpoint_of_another_shape(tmp_path):
    """Check that it is an error; MMEngine would only warn and go on."""
    torch.save(pretrainer(*XTRA, decoder=dict(width=48)).state_dict(), tmp_path / "wide.pth")
    with pytest.raises(ValueError, match=r"neck\.pos_embed has shape \(1, 64, 48\).*\(1, 64, 32\)"):
        load_checkpoint(pretrainer(*XTRA), str(tmp_path / "wide.pth"))


def test_an_unknown_target_lists_the_known_and_the_failed_plugins(monkeypatch):
    monkeypatch.setattr(plugins, "FAILED", {"dreams": "ImportError: no module named sleep"})
    with pytest.raises(
        ValueError,
        match=r"unknown target .*NextColour, NextEmbedding, NextToken.*; plugin 'dreams'",
    ):
        pretrainer("block", dict(type="xtra_toolkit.NextDream"))
    with pytest.raises(ValueError, match="unknown target"):
        pretrainer("block", dict(type="xtra_toolkit.MaskedViT"))
    with pytest.raises(ValueError, match=r"cannot be made of .*distance"):
        pretrainer("block", dict(type="xtra_toolkit.NextBlock", distance=2))


def test_an_unknown_mask_in_a_config():
    with pytest.raises(ValueError, match=r"unknown mask 'xtra_toolkit.Spiral'; known masks"):
        pretrainer(dict(type="xtra_toolkit.Spiral"), "block")


def test_a_mask_must_be_a_config():
    with pytest.raises(ValueError, match="holds the config of the mask"):
        pretrainer(torch.nn.Identity(), "block")


@pytest.mark.parametrize(
    ("head", "sentence"),
    [
        (dict(loss="huber"), "valid: mse, l1, smooth_l1"),
        (dict(loss=dict(type="mse", beta=2.0)), "'mse' cannot be made of .*'beta'"),
        (dict(reduction="sum"), "batch, image"),
    ],
)
def test_losses_and_reductions(head, sentence):
    with pytest.raises(ValueError, match=sentence):
        pretrainer(*XTRA, head=head)


def test_sizes_that_do_not_tile():
    with pytest.raises(ValueError, match="8×8 px do not tile an image of 60×60"):
        pretrainer(*XTRA, image=60)
    with pytest.raises(ValueError, match="blocks of 2×2 tokens do not tile a grid of 5×5"):
        pretrainer(*XTRA, image=40)
    with pytest.raises(ValueError, match=r"do not tile an image of 65×64 px"):
        pretrainer(*XTRA).extract_feat(torch.zeros(1, 3, 65, 64))
    with pytest.raises(ValueError, match=r"needs \(3, 64, 64\)"):
        pretrainer(*XTRA).loss(torch.zeros(1, 3, 32, 32))


def test_an_encoder_without_a_mask_gives_no_features():
    vit = MODELS.build(dict(type="xtra_toolkit.MaskedViT", arch="deit-tiny", img_size=32))
    with pytest.raises(ValueError, match="this encoder knows no mask"):
        vit(torch.zeros(1, 3, 32, 32))


def test_attention_dropout_is_refused():
    with pytest.raises(ValueError, match="attention dropout"):
        pretrainer(*XTRA, layer_cfgs=dict(attn_drop_rate=0.1))


def test_an_unknown_attention_back_end():
    with pytest.raises(ValueError, match="valid: auto, eager, sdpa, xformers"):
        pretrainer(*XTRA, attention="flash")


def test_an_encoder_given_another_mask_is_the_encoder_built_with_it():
    """Check weights of XTRA under full attention: every feature then sees every patch."""
    x = torch.randn(1, 3, 64, 64)
    changed = x.clone()
    changed[..., -8:, -8:] += 1  # the last patch, of the last block
    vit = randomise(pretrainer(*XTRA).backbone)

    def moved():
        """Return the tokens, in raster order, whose features change with the last patch."""
        return ((vit(changed)[0] - vit(x)[0]).abs().amax(-1)[0] > 0).nonzero().flatten().tolist()

    assert moved() == [54, 55, 62, 63]  # its own block of 2×2 tokens
    vit.encoder_mask.set(MASKS["bidirectional"])
    assert moved() == list(range(64))
    full = dict(type="xtra_toolkit.MaskedViT", arch=arch(), img_size=64, patch_size=8)
    full = MODELS.build(full | dict(mask=MASKS["bidirectional"])).eval()
    full.load_state_dict(vit.state_dict())
    assert torch.equal(full(x)[0], vit(x)[0])


def test_a_checkpoint_with_nothing_for_the_encoder():
    """Check a forgotten prefix: MMEngine would only warn and probe a random encoder."""
    vit = dict(type="xtra_toolkit.MaskedViT", arch=arch(), img_size=64, patch_size=8)
    with pytest.raises(ValueError, match=r"not of this encoder: .*under another prefix"):
        MODELS.build(vit).load_state_dict(pretrainer(*XTRA).state_dict(), strict=False)


FIT = dict(arch=arch(), img_size=64, patch_size=8, out_type="featmap")


@pytest.mark.parametrize(
    ("trained", "probed", "sentence"),
    [
        (dict(with_cls_token=True), {}, "'cls_token'.*with_cls_token is another"),
        ({}, dict(with_cls_token=True), "not in the file.*'cls_token'"),
        (
            dict(patch_cfg=dict(norm_cfg=dict(type="LN"))),
            {},
            r"'patch_embed.norm.bias'\. AIM's patch norm is patch_cfg",
        ),
        (dict(bias=False), {}, r"not in the file, the first 'layers.0.attn.proj.bias'\. bias"),
        ({}, dict(bias=False), r"no place in it, the first 'layers.0.attn.proj.bias'\. bias"),
        ({}, dict(arch=arch(depth=3)), r"arch \(num_layers\) is 3 in the config and 2 "),
        ({}, dict(arch=arch(depth=1)), r"arch \(num_layers\) is 1 in the config and 2 "),
    ],
)
def test_a_checkpoint_that_fits_in_part_is_not_probed(trained, probed, sentence, tmp_path):
    """Check wrong names: MMEngine would only warn and probe a half random encoder."""
    mask = MASKS["bidirectional"]
    vit = MODELS.build(dict(type="xtra_toolkit.MaskedViT", mask=mask, **FIT | trained))
    state = {f"backbone.{name}": value for name, value in vit.state_dict().items()}
    torch.save(dict(state_dict=state), tmp_path / "x.pth")
    init = dict(type="Pretrained", checkpoint=str(tmp_path / "x.pth"), prefix="backbone.")
    probe = dict(type="xtra_toolkit.MaskedViT", init_cfg=init, final_norm=False)
    with pytest.raises(ValueError, match=sentence):
        MODELS.build(probe | FIT | probed).init_weights()
    MODELS.build(probe | FIT | trained).init_weights()  # itself, but for the final norm


def test_a_loss_that_does_not_fit_its_target(tmp_path):
    import numpy as np

    np.save(tmp_path / "c.npy", np.eye(3))
    colours = dict(type="xtra_toolkit.NextColour", clusters=str(tmp_path / "c.npy"))
    shape = dict(image=8, patch=1)
    with pytest.raises(ValueError, match=r"gives class ids; set head\.loss='cross_entropy'"):
        pretrainer("token", colours, **shape)
    with pytest.raises(ValueError, match=r"gives values, but .*to 'mse', 'l1'"):
        pretrainer("token", "token", head=dict(loss="cross_entropy"))


def test_what_hides_needs_attention_and_something_shown():
    with pytest.raises(ValueError, match="nothing would reach a hidden position"):
        pretrainer("shown", "masked", decoder=dict(heads=None))
    with pytest.raises(ValueError, match=r"shows no patch of .* up to mask_ratio=0.984"):
        pretrainer(dict(type="xtra_toolkit.RandomShown", mask_ratio=0.99), "masked")
    with pytest.raises(ValueError, match="heads=0 was given; it must divide the width 32"):
        pretrainer(*XTRA, decoder=dict(heads=0))
    with pytest.raises(ValueError, match=r"2.0 was given; a size is a whole number"):
        pretrainer(dict(type="xtra_toolkit.BlockCausal", block_size=2.0), "block")


def test_an_unprefixed_target_is_found_as_an_unprefixed_mask_is():
    model = pretrainer(dict(type="BlockCausal", block_size=2), dict(type="NextBlock"))
    assert model.objective.bounds.num_computed == 60
