"""Test that wrong options get a sentence in place of a bare error of a library."""

import pytest
import torch
from helpers.builds import MASKS, arch, pretrainer
from mmpretrain.registry import DATASETS, MODELS
from mmpretrain.structures import DataSample
from PIL import Image

VIT = dict(mask=MASKS["bidirectional"], arch=arch(), img_size=64, patch_size=8)
FROM_FILE = dict(type="Pretrained", checkpoint="x.pth", prefix="backbone.")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (dict(arch="tiny"), r"arch='tiny' was given.*did you mean 'deit-tiny'\? valid: .*'?base"),
        (dict(arch="vast"), r"arch='vast' was given.*VisionTransformer; valid: "),
        (dict(arch=dict(embed_dims=32)), "a name or a dict with embed_dims, num_layers"),
        (dict(arch=arch(heads=0)), "each a whole number above 0"),
        (dict(arch=arch(heads=5)), "num_heads=5, which does not divide .*=48; .*: 1, 2, 3, 4, 6$"),
        (dict(patch_size=0), "img_size=64 and patch_size=0 were given; .* must be 1 or more"),
        (dict(patch_size=-8), "patch_size=-8"),
        (dict(img_size=-64), "img_size=-64"),
        (dict(frozen_stages=3), "frozen_stages=3 was given, and the encoder has 2 layers"),
        (dict(out_indices=[0, 2]), r"names layer 2, .* 0 to 1, or -2 to -1"),
        (dict(init_cfg=FROM_FILE), "x.pth holds no encoder: .* begins with 'backbone.'"),
    ],
)
def test_options_of_an_encoder(options, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(dict(state_dict=dict(other=torch.zeros(1))), "x.pth")
    with pytest.raises(ValueError, match=sentence):
        MODELS.build(dict(type="xtra_toolkit.MaskedViT", **VIT | options)).init_weights()


def test_what_the_last_layer_is_called_may_still_be_named():
    options = dict(frozen_stages=2, out_indices=[-2, 1], arch=arch(heads=6))
    MODELS.build(dict(type="xtra_toolkit.MaskedViT", **VIT | options)).init_weights()


def test_a_block_without_tokens():
    with pytest.raises(ValueError, match="block_size=0 was given; a block has 1 token or more"):
        pretrainer(dict(type="xtra_toolkit.BlockCausal", block_size=0), "block")


def test_too_few_classes():
    linear = dict(type="mmpretrain.LinearClsHead")
    sweep = dict(type="xtra_toolkit.ProbeSweep", in_channels=4, rates=[1e-3], probe=linear)
    sweep = MODELS.build(sweep | dict(num_classes=3))
    labelled = [DataSample().set_gt_label(label) for label in (0, 2)]
    assert sweep.loss((torch.randn(2, 4),), labelled)
    labelled[1].set_gt_label(3)
    with pytest.raises(ValueError, match=r"there are 4 classes or more.*num_classes=3.*=4 or more"):
        sweep.loss((torch.randn(2, 4),), labelled)


@pytest.mark.parametrize(
    ("folder", "sentence"),
    [
        ("absent", r"There is no folder '.*absent'"),
        ("flat", "has no sub-folders, and labels are asked for"),
        ("hollow", r"No images in a sub-folder of .*\. Files ending in"),
    ],
)
def test_folders_without_labelled_images(folder, sentence, tmp_path):
    (tmp_path / "flat").mkdir()
    (tmp_path / "hollow" / "a").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "flat" / "x.png")
    options = dict(data_root=str(tmp_path / folder), with_label=True, pipeline=[])
    with pytest.raises(ValueError, match=sentence):
        DATASETS.build(dict(type="xtra_toolkit.ImageFolder", **options))


def test_more_classes_of_images_than_of_the_head():
    from types import SimpleNamespace

    from xtra_toolkit.models.classifier import check_classes

    dataset = SimpleNamespace(metainfo=dict(classes=("a", "b", "c")))
    check_classes(dataset, dict(num_classes=3))
    check_classes(dataset, SimpleNamespace())
    sentence = r"have 3 classes, 'a' to 'c', .* model\.head\.num_classes=2; set it to 3"
    with pytest.raises(ValueError, match=sentence):
        check_classes(dataset, SimpleNamespace(num_classes=2))
