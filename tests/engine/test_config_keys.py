"""Test that a config with a key that nothing reads is refused before anything is built."""

from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import RUNNERS

from xtra_toolkit.engine.config_keys import refuse_unknown_arguments

ROOT = Path(__file__).parents[2]
TINY = ROOT / "tests" / "configs" / "xtra_tiny.py"


def changed(key, value=2, path=TINY):
    config = Config.fromfile(path)
    config.merge_from_dict({key: value}, allow_list_keys=True)
    return config


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("model.with_ckp", "model.with_cp"),
        ("model.backbone.img_sze", "model.backbone.img_size"),
        ("model.mask.block_sze", "model.mask.block_size"),
        ("model.target_generator.normalize", "model.target_generator.normalise"),
        ("model.head.hiden", "model.head.hidden"),
        ("optim_wrapper.dtyp", "optim_wrapper.dtype"),
        ("optim_wrapper.optimizer.lrr", "optim_wrapper.optimizer.lr"),
        ("param_scheduler.1.beginn", "param_scheduler.1.begin"),
        ("train_cfg.max_iter", "train_cfg.max_iters"),
        ("train_dataloader.num_worker", "train_dataloader.num_workers"),
        ("train_dataloader.dataset.pipline", "train_dataloader.dataset.pipeline"),
        ("train_dataloader.dataset.pipeline.1.scal", "train_dataloader.dataset.pipeline.1.scale"),
        ("default_hooks.checkpoint.intervall", "default_hooks.checkpoint.interval"),
    ],
)
def test_mim_refuses_a_nested_key_that_nothing_reads(key, meant, tmp_path):
    config = changed(key)
    config.work_dir = str(tmp_path / "run")
    with pytest.raises(ValueError, match=r".") as refused:
        RUNNERS.build(config)  # as MMPretrain's tools/train.py does
    assert str(refused.value).startswith(f"{key} was given, and ")
    assert f"Did you mean {meant}" in str(refused.value)
    assert not (tmp_path / "run").exists()


def test_sharded_runs_and_probes_are_checked_too(tmp_path):
    for name, key in (
        ("tests/configs/xtra_tiny_fsdp.py", "model.neck.widht"),
        ("mmconfigs/benchmarks/linear/imagenet.py", "model.backbone.frozen_stage"),
    ):
        config = changed(key, path=ROOT / name)
        config.work_dir = str(tmp_path)
        with pytest.raises(ValueError, match=f"{key} was given"):
            RUNNERS.build(config)


def test_keys_that_another_package_reads_are_not_checked():
    """MMPretrain's RandAugment takes magnitude_key from each policy, which no policy accepts."""
    policy = dict(type="Posterize", magnitude_key="bits", magnitude_range=(4, 0))
    augment = dict(type="RandAugment", policies=[policy])
    dataset = dict(type="CustomDataset", pipeline=[augment])
    encoder = dict(type="xtra_toolkit.MaskedViT", arch="base")
    config = dict(
        default_scope="mmpretrain",
        model=dict(type="ImageClassifier", backbone=encoder),
        train_dataloader=dict(dataset=dataset),
        own_notes=dict(type="xtra_toolkit.MaskedViT", img_sze=2),  # the runner does not read it
    )
    refuse_unknown_arguments(config)
    encoder["img_sze"] = 32
    with pytest.raises(ValueError, match=r"model\.backbone\.img_sze was given"):
        refuse_unknown_arguments(config)
