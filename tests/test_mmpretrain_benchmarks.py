"""Test MMPretrain's own benchmark configs on our encoders, with the README's options.

The encoders have twelve narrow layers; in the test of the README's line, those of ViT-B.
"""

import copy
import os
from pathlib import Path

import mmpretrain
import pytest
import torch
from helpers import (
    builds,  # noqa: F401, sets the scope
    photographs,
)
from mmengine.config import Config
from mmengine.runner import Runner
from mmpretrain.registry import MODELS
from test_mim import mim

from xtra_toolkit.masks import BlockCausal

OWN = Path(__file__).parents[1] / "mmconfigs" / "benchmarks" / "mmpretrain"
THEIRS = Path(mmpretrain.__file__).parent / ".mim/configs/mae/benchmarks"
LINEAR = THEIRS / "vit-base-p16_8xb2048-linear-coslr-90e_in1k.py"
TUNE = THEIRS / "vit-base-p16_8xb128-coslr-100e_in1k.py"
XTRA = dict(type="xtra_toolkit.BlockCausal", block_size=4)

OURS = {"model.backbone.type": "xtra_toolkit.MaskedViT", "model.backbone.with_cls_token": False}
POOLED = {"model.backbone.out_type": "avg_featmap"}
AT_256 = {
    "model.backbone.img_size": 256,
    "train_dataloader.dataset.pipeline.1.scale": 256,
    "val_dataloader.dataset.pipeline.1.scale": 292,
    "val_dataloader.dataset.pipeline.2.crop_size": 256,
}
RAGGED = {"model.backbone.dynamic_img_size": True} | {
    f"model.backbone.mask.{key}": value for key, value in (XTRA | dict(ragged=True)).items()
}
ON_CPU = {"optim_wrapper.type": "OptimWrapper"}
NARROW = dict(embed_dims=48, num_layers=12, num_heads=3, feedforward_channels=192)
TUNED = {"model.backbone.arch": dict(NARROW, _delete_=True), "model.head.in_channels": 48}
PROBED = TUNED | {"model.neck.input_features": 48}
CLASS_TOKEN = {"model.backbone.with_cls_token": True}


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    """Write the layout that MMPretrain's ImageNet requires: 1000 folders, here of one image."""
    root = tmp_path_factory.mktemp("imagenet")
    photo = photographs.write(root / "photo", 1) / "even" / "000.jpg"
    for split in ("train", "val"):
        for i in range(1000):
            (root / split / f"n{i:08}").mkdir(parents=True)
            (root / split / f"n{i:08}" / "0.JPEG").symlink_to(photo)
    return root


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Write encoders as a pretraining run saves them, by name."""
    folder = tmp_path_factory.mktemp("checkpoints")
    kinds = {
        "xtra": dict(mask=XTRA, img_size=256),
        "aim": dict(mask=dict(type="xtra_toolkit.PrefixCausal"), img_size=256),
        "mae": dict(mask=dict(type="xtra_toolkit.RandomShown"), with_cls_token=True),
    }
    for name, backbone in kinds.items():
        save_encoder(folder / f"{name}.pth", NARROW, backbone)
    return folder


def save_encoder(path, arch, backbone):
    torch.manual_seed(0)
    vit = MODELS.build(dict(type="xtra_toolkit.MaskedViT", arch=arch, **backbone))
    vit.init_weights()
    state = {f"backbone.{key}": value for key, value in vit.state_dict().items()}
    torch.save(dict(state_dict=state), path)


def few_images(imagenet, checkpoint, work_dir):
    return {
        "model.backbone.init_cfg.checkpoint": str(checkpoint),
        "work_dir": str(work_dir),
        "train_cfg.max_epochs": 1,
        "log_level": "WARNING",
    } | {
        f"{split}_dataloader.{key}": value
        for split in ("train", "val")
        for key, value in {
            "dataset.data_root": str(imagenet),
            "dataset.indices": 4,
            "batch_size": 2,
            "num_workers": 0,
            "persistent_workers": False,
        }.items()
    }


def runner_of(config, options):
    config = Config.fromfile(config)
    config.merge_from_dict(copy.deepcopy(options))  # it removes _delete_ from them
    config.test_dataloader = config.test_evaluator = config.test_cfg = None
    config.default_hooks.checkpoint = None
    config.experiment_name = f"benchmark_{options['work_dir']}"
    return Runner.from_cfg(config)


@pytest.mark.parametrize(
    ("config", "encoder", "options"),
    [
        (LINEAR, "xtra", OURS | POOLED | AT_256 | ON_CPU | PROBED),
        (LINEAR, "xtra", OURS | POOLED | RAGGED | ON_CPU | PROBED),
        (LINEAR, "aim", OURS | POOLED | AT_256 | ON_CPU | PROBED),
        (LINEAR, "mae", OURS | CLASS_TOKEN | ON_CPU | PROBED),
        (TUNE, "xtra", OURS | AT_256 | TUNED),
        (TUNE, "xtra", OURS | RAGGED | TUNED),
        (TUNE, "mae", OURS | CLASS_TOKEN | TUNED),
        (OWN / "linear.py", "xtra", {}),
        (OWN / "mae_linear.py", "mae", PROBED),
        (OWN / "finetune.py", "xtra", {}),
    ],
    ids=lambda value: value if isinstance(value, str) else getattr(value, "stem", ""),
)
def test_a_benchmark_of_mmpretrain_trains_and_validates(
    config, encoder, options, imagenet, checkpoints, tmp_path
):
    checkpoint = checkpoints / f"{encoder}.pth"
    runner = runner_of(config, options | few_images(imagenet, checkpoint, tmp_path))
    runner.train()
    assert runner.iter == 2

    vit = runner.model.backbone
    stored = torch.load(checkpoint, weights_only=True)["state_dict"]
    mask = vit.encoder_mask.factory
    if encoder == "xtra":
        assert isinstance(mask, BlockCausal) and mask.block_size == 4
        assert mask.ragged == ("model.backbone.mask.ragged" in options)
    moved = {
        name: not torch.equal(value, stored[f"backbone.{name}"])
        for name, value in vit.state_dict().items()
        if name.startswith("layers.") and f"backbone.{name}" in stored
    }
    assert len(moved) == 12 * 12
    tuned = "linear" not in config.stem
    assert all(moved.values()) if tuned else not any(moved.values())


def test_layer_decay_reaches_our_layers(imagenet, checkpoints, tmp_path):
    options = OURS | AT_256 | TUNED | few_images(imagenet, checkpoints / "xtra.pth", tmp_path)
    runner = runner_of(TUNE, options)
    wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    names = {id(p): n for n, p in runner.model.named_parameters()}
    scales = {
        names[id(p)]: group["lr_scale"]
        for group in wrapper.optimizer.param_groups
        for p in group["params"]
    }
    for i in range(12):
        assert scales[f"backbone.layers.{i}.attn.qkv.weight"] == pytest.approx(0.65 ** (12 - i))
    assert scales["backbone.pos_embed"] == pytest.approx(0.65**13) and scales["head.fc.weight"] == 1


def test_other_image_sizes_are_refused_with_both_alternatives(imagenet, checkpoints, tmp_path):
    options = OURS | POOLED | ON_CPU | PROBED
    options |= few_images(imagenet, checkpoints / "xtra.pth", tmp_path)
    with pytest.raises(ValueError, match="img_size is 224 in the config and 256 in the checkpoint"):
        runner_of(LINEAR, options).train()
    options |= {"model.backbone.dynamic_img_size": True}
    with pytest.raises(ValueError, match=r"192×192, 256×256 px .*img_size.*crops.*ragged=True"):
        runner_of(LINEAR, options).train()


def test_the_line_in_the_readme_runs_through_mim(imagenet, tmp_path):
    save_encoder(tmp_path / "xtra.pth", "base", dict(mask=XTRA, img_size=256))
    options = OURS | POOLED | AT_256 | ON_CPU
    options |= few_images(os.path.relpath(imagenet, tmp_path), "xtra.pth", tmp_path / "run")
    options.pop("work_dir"), options.pop("log_level")
    given = [f"{key}={value}" for key, value in options.items()]
    output = mim(LINEAR, "--cfg-options", *given, work_dir=tmp_path / "run")
    assert "accuracy/top1" in output
