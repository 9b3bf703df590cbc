"""Test what the runner of the shipped configs refuses once model and images are there."""

import uuid
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import RUNNERS
from PIL import Image

RUNTIME = Path(__file__).parents[2] / "mmconfigs" / "_base_" / "runtime.py"
LOOP = "xtra_toolkit.GlobalBatchLoop"


@pytest.fixture
def folder(tmp_path):
    """Write two images of each of three classes, and a list of them without names of classes."""
    lines = []
    for label, name in enumerate("abc"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(2):
            Image.new("RGB", (32, 32)).save(tmp_path / "images" / name / f"{i}.png")
            lines.append(f"{name}/{i}.png {label}\n")
    (tmp_path / "list.txt").write_text("".join(lines))
    return tmp_path


def runner(folder, classes, train_cfg, **dataset):
    """Build MMPretrain's own classifier with the shipped runtime, as ``mim train`` does."""
    config = Config.fromfile(RUNTIME)
    steps = [dict(type="mmpretrain.LoadImageFromFile", color_type="grayscale")]
    config.merge_from_dict(
        dict(
            model=dict(
                type="mmpretrain.ImageClassifier",
                backbone=dict(type="mmpretrain.LeNet5"),
                head=dict(type="mmpretrain.LinearClsHead", num_classes=classes, in_channels=120),
                neck=dict(type="mmpretrain.GlobalAveragePooling"),
                data_preprocessor=dict(mean=[0.0], std=[1.0]),
            ),
            train_dataloader=dict(
                batch_size=2,
                num_workers=0,
                collate_fn=dict(type="mmengine.default_collate"),
                dataset=dict(
                    data_root=str(folder / "images"),
                    with_label=True,
                    pipeline=[*steps, dict(type="mmpretrain.PackInputs")],
                    **dataset,
                ),
            ),
            train_cfg=dict(max_epochs=1, **train_cfg),
            work_dir=str(folder / "run"),
            experiment_name=uuid.uuid4().hex,
            log_level="ERROR",
        )
    )
    if "type" not in train_cfg:
        sampler = dict(type="mmengine.DefaultSampler", shuffle=True)
        config.train_dataloader.sampler = sampler
    config.default_hooks.pop("reconstruction")
    return RUNNERS.build(config)


@pytest.mark.parametrize("train_cfg", [dict(by_epoch=True), dict(type=LOOP, global_batch=2)])
@pytest.mark.parametrize("kind", ["mmpretrain.CustomDataset", "xtra_toolkit.ImageFolder"])
def test_mmpretrains_classifier_with_too_few_classes_is_refused(train_cfg, kind, folder):
    """A data set of MMPretrain names its classes; the labels of a list are counted."""
    dataset, names = dict(type=kind), ", 'a' to 'c',"
    if kind.startswith("xtra"):
        dataset, names = dict(dataset, ann_file=str(folder / "list.txt")), ""
    elif "type" in train_cfg:
        dataset = dict(type="xtra_toolkit.SeededDataset", dataset=kind)
    sentence = f"have 3 classes{names} and the config has model.head.num_classes=2; set it to 3"
    with pytest.raises(ValueError, match=sentence):
        runner(folder, 2, train_cfg, **dataset).train()


def test_enough_classes_train(folder):
    kind = "xtra_toolkit.ImageFolder"
    trained = runner(folder, 3, dict(by_epoch=True), type=kind)
    trained.train()
    assert trained.iter == 3
