"""What the models refuse, each with its sentence."""

import pytest
import torch
from builds import MASKS, XTRA, arch, pretrainer
from mmengine.runner import load_checkpoint
from mmpretrain.registry import MODELS

from xtra_toolkit.masks import plugins


def test_a_checkpoint_of_another_shape(tmp_path):
    """MMEngine only warns of it, and trains on."""
    torch.save(pretrainer(*XTRA, decoder=dict(width=48)).state_dict(), tmp_path / "wide.pth")
    with pytest.raises(ValueError, match=r"neck\.pos_embed has shape \(1, 64, 48\).*\(1, 64, 32\)"):
        load_checkpoint(pretrainer(*XTRA), str(tmp_path / "wide.pth"))


def test_an_unknown_target_lists_the_known_and_the_failed_plugins(monkeypatch):
    monkeypatch.setattr(plugins, "FAILED", {"dreams": "ImportError: no module named sleep"})
    with pytest.raises(
        ValueError, match=r"unknown target .*NextColour, NextToken; plugin 'dreams'"
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
    with pytest.raises(ValueError, match="travels in the checkpoint by its config"):
        pretrainer(torch.nn.Identity(), "block")


@pytest.mark.parametrize(
    ("head", "sentence"),
    [(dict(loss="huber"), "valid: mse, l1, smooth_l1"), (dict(reduction="sum"), "batch, image")],
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


def test_full_attention_gives_other_features():
    """An XTRA encoder probed with another mask is another encoder."""
    x = torch.randn(1, 3, 64, 64)
    model = pretrainer(*XTRA)
    model.init_weights()
    model.eval()
    (masked,) = model.extract_feat(x)
    vit = model.backbone
    vit.encoder_mask.set(MASKS["bidirectional"])
    (full,) = vit(x)
    assert (masked - full).abs().max() > 1e-4


def test_a_checkpoint_with_nothing_for_the_encoder():
    """A forgotten prefix; MMEngine only warns, and a random encoder would be probed."""
    vit = dict(type="xtra_toolkit.MaskedViT", arch=arch(), img_size=64, patch_size=8)
    with pytest.raises(ValueError, match=r"no parameter of this encoder.*prefix='backbone\.'"):
        MODELS.build(vit).load_state_dict(pretrainer(*XTRA).state_dict(), strict=False)


def test_an_unprefixed_target_is_found_as_an_unprefixed_mask_is():
    model = pretrainer(dict(type="BlockCausal", block_size=2), dict(type="NextBlock"))
    assert model.planner.bounds.keep == 60
