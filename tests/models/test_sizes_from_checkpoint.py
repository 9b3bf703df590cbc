"""Test that an encoder takes its sizes from its checkpoint, and that other sizes are refused."""

from pathlib import Path

import pytest
import torch
from helpers.builds import MASKS, arch, randomise
from helpers.folders import PREPROCESSOR, write_checkpoint
from mmengine.config import Config
from mmengine.runner import load_checkpoint
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

CONFIGS = Path(__file__).parents[2] / "mmconfigs"
VIT = "xtra_toolkit.MaskedViT"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return the path of a checkpoint with 8×8 patches of 64×64 px, and its pretrainer."""
    path = tmp_path_factory.mktemp("checkpoints") / "x.pth"
    return str(path), write_checkpoint(path)


def probe(checkpoint, head=None, neck=None, images=None, **backbone):
    init = dict(type="Pretrained", checkpoint=checkpoint, prefix="backbone.")
    neck = dict(type="mmpretrain.ClsBatchNormNeck") | (neck or {})
    head = dict(type="mmpretrain.LinearClsHead", num_classes=3) | (head or {})
    backbone = dict(type=VIT, out_type="avg_featmap", init_cfg=init) | backbone
    config = dict(backbone=backbone, neck=neck, head=head, data_preprocessor=images)
    return MODELS.build(dict(type="xtra_toolkit.ImageClassifier", **config))


def test_a_probe_without_sizes_has_those_of_the_checkpoint(saved):
    path, pretrainer = saved
    model = probe(path, frozen_stages="all")
    model.init_weights()
    assert model.backbone.grid == pretrainer.backbone.grid
    assert model.neck.bn.num_features == model.head.fc.in_features == 48
    assert not any(p.requires_grad for p in model.backbone.parameters())
    images = torch.randn(2, 3, 64, 64)
    features, own = model.backbone.eval()(images)[0], pretrainer.backbone(images)[0].mean(1)
    torch.testing.assert_close(features, torch.layer_norm(own, (48,), eps=1e-6), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "options",
    [
        dict(with_cls_token=True),
        dict(bias=False),
        dict(in_channels=1),
        dict(qkv_bias=False),
        dict(positions="relative"),
    ],
)
def test_further_options_of_the_encoder_come_from_the_checkpoint(options, tmp_path):
    mask = MASKS["bidirectional"]
    trained = dict(type=VIT, mask=mask, arch=arch(), img_size=(32, 64), patch_size=8)
    trained = randomise(MODELS.build(trained | options))
    torch.save({f"backbone.{n}": v for n, v in trained.state_dict().items()}, tmp_path / "x.pth")
    model = probe(str(tmp_path / "x.pth"))
    model.init_weights()
    own = dict(model.backbone.named_parameters())
    for name, parameter in trained.named_parameters():
        assert torch.equal(parameter, own.pop(name))
    assert own.keys() == {"ln2.weight", "ln2.bias"}  # of avg_featmap


@pytest.mark.parametrize(
    ("backbone", "sentence"),
    [
        (dict(img_size=32), "model.backbone.img_size is 32 in the config and 64 in the checkpoint"),
        (dict(patch_size=16), "patch_size is 16 in the config and 8 in the checkpoint"),
        (dict(in_channels=1), "in_channels is 1 in the config and 3 in the checkpoint"),
        (dict(arch=arch(depth=3)), r"arch \(num_layers\) is 3 in the config and 2 in the"),
        (dict(arch=arch(heads=4)), r"arch \(num_heads\) is 4 in the config and 3 in the"),
        (dict(arch=arch(width=96)), r"arch \(embed_dims\) is 96 in the config and 48 in the"),
    ],
)
def test_sizes_that_differ_from_the_checkpoint(saved, backbone, sentence):
    with pytest.raises(ValueError, match=sentence):
        probe(saved[0], **backbone).init_weights()


def test_another_size_of_the_images_may_be_intended(saved):
    model = probe(saved[0], img_size=32, dynamic_img_size=True)
    model.init_weights()
    assert model.backbone(torch.zeros(1, 3, 32, 32))[0].shape == (1, 48)


@pytest.mark.parametrize(
    ("part", "sentence"),
    [
        (dict(head=dict(in_channels=768)), "head.in_channels is 768 .* features have 48 values"),
        (dict(neck=dict(input_features=192)), "neck.input_features is 192 .* have 48 values"),
    ],
)
def test_widths_that_differ_from_the_encoder(saved, part, sentence):
    with pytest.raises(ValueError, match=f"model.{sentence}"):
        probe(saved[0], **part)


def test_no_sizes_and_nothing_that_tells_them(tmp_path):
    with pytest.raises(ValueError, match=r"no checkpoint was given .*sizes are read from it"):
        probe("")
    torch.save(dict(state_dict={"backbone.x": torch.zeros(1)}), tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"does not record the sizes .* set model.backbone.arch"):
        probe(str(tmp_path / "x.pth"))


MEAN, STD = PREPROCESSOR["mean"], PREPROCESSOR["std"]


@pytest.mark.parametrize("images", [None, dict(num_classes=3), dict(mean=MEAN, std=STD)])
def test_images_are_normalised_as_the_checkpoint_records(images, saved):
    model = probe(saved[0], images=images)
    model.init_weights()
    sample = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    own, other = (
        part(dict(inputs=sample, data_samples=None))["inputs"]
        for part in (model.data_preprocessor, saved[1].data_preprocessor)
    )
    torch.testing.assert_close(own, other)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (dict(mean=[128.0] * 3), r"mean is \[128.0, 128.0, 128.0\] in the config and \[123.675"),
        (dict(std=[1.0] * 3), r"std is \[1.0, 1.0, 1.0\] in the config and \[58.395"),
        (dict(to_rgb=False), r"to_rgb is False \(BGR\) in the config and True \(RGB\) in the ch"),
    ],
)
@pytest.mark.parametrize("way", ["init_cfg", "load_from", "sizes in the config"])
def test_images_normalised_otherwise_are_refused(changes, sentence, way, saved):
    images = dict(mean=MEAN, std=STD, to_rgb=True) | changes
    sizes = dict(arch=arch(), img_size=64, patch_size=8) if way == "sizes in the config" else {}
    model = probe(saved[0], images=images, **sizes)
    with pytest.raises(ValueError, match=rf"model\.data_preprocessor\.{sentence}.*=None takes"):
        if way == "load_from":
            load_checkpoint(model, saved[0])
        else:
            model.init_weights()


def test_a_segmentor_is_normalised_as_the_checkpoint_records(saved):
    init = dict(type="Pretrained", checkpoint=saved[0], prefix="backbone.")
    backbone = dict(type=VIT, out_type="featmap", init_cfg=init)
    config = dict(type="xtra_toolkit.LinearSegmentor", num_classes=2, backbone=backbone)
    model = MODELS.build(config)
    assert model.data_preprocessor.mean.flatten().tolist() == pytest.approx(MEAN)
    other = MODELS.build(dict(config, data_preprocessor=dict(mean=[0.0] * 3, std=STD)))
    with pytest.raises(ValueError, match=r"data_preprocessor\.mean is \[0.0, 0.0, 0.0\]"):
        other.init_weights()


def test_images_of_another_size(saved):
    vit = probe(saved[0]).backbone
    sentence = (
        r"takes images of 64×64 px, and was given 128×96 px\. .*val_dataloader.dataset.pipeline"
        r".*dynamic_img_size=True"
    )
    with pytest.raises(ValueError, match=sentence):
        vit(torch.zeros(1, 3, 128, 96))


def test_too_few_classes_for_mmpretrains_head(saved):
    model = probe(saved[0])
    model.init_weights()
    labelled = [DataSample().set_gt_label(label) for label in (0, 2)]
    assert model.loss(torch.zeros(2, 3, 64, 64), labelled)
    labelled[1].set_gt_label(3)
    with pytest.raises(ValueError, match=r"there are 4 classes .*num_classes=3.*num_classes=4 or"):
        model.loss(torch.zeros(2, 3, 64, 64), labelled)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("benchmarks/linear/imagenet", {}),
        ("benchmarks/attentive/cifar10", {"model.head.probe.num_heads": 4}),
        ("benchmarks/segmentation", {"model.backbone.out_indices": [0, 1]}),
        ("benchmarks/mmpretrain/linear", {}),
        ("benchmarks/mmpretrain/finetune", {}),
        ("demo/probe_digits", {"model.data_preprocessor": None}),  # of grey images
    ],
)
def test_shipped_probes_name_no_size(name, options, saved):
    path, pretrainer = saved
    config = Config.fromfile(CONFIGS / f"{name}.py")
    layers = "model.backbone.out_indices"
    options = {layers: [-2, -1]} | options if "attentive" in name else options
    config.merge_from_dict(options | {"model.backbone.init_cfg.checkpoint": path})
    model = MODELS.build(config.model)
    model.init_weights()
    assert model.backbone.grid == pretrainer.backbone.grid and model.backbone.embed_dims == 48
    frozen = not any(p.requires_grad for p in model.backbone.parameters())
    assert frozen == ("finetune" not in name)
