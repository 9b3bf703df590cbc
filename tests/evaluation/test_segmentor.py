"""Test linear segmentation: feature maps of several layers, training, metrics and errors."""

import uuid
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import photographs
from helpers.builds import MASKS, arch, randomise
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from PIL import Image

from xtra_toolkit.data import LoadImage
from xtra_toolkit.evaluation import (
    LinearSegmentor,
    LoadSegMap,
    MeanIoU,
    RandomResizedCropWithSegMap,
    SegmentationFolder,
)
from xtra_toolkit.evaluation.segmentor import enlarge

CONFIG = Path(__file__).parents[2] / "mmconfigs" / "benchmarks" / "segmentation.py"


def vit(**options):
    shape = dict(arch=arch(), img_size=64, patch_size=8, mask=MASKS["block"], out_type="featmap")
    return dict(type="xtra_toolkit.MaskedViT", **(shape | options))


def folder(place, count=8, size=96):
    """Write photographs and maps: dark pixels are 0, bright ones 1, the frame has no class."""
    for i, jpeg in enumerate(
        sorted(photographs.write(place / "crops", count, size).rglob("*.jpg"))
    ):
        image = Image.open(jpeg).crop((0, 0, size, size - 16))
        grey = np.asarray(image.convert("L"))
        seg_map = (grey > 110).astype(np.uint8)
        seg_map[:4] = seg_map[:, -4:] = 255
        for kind, file, pixels in (("images", "jpg", image), ("annotations", "png", seg_map)):
            path = place / kind / f"{i % 2}" / f"{i}.{file}"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = pixels if file == "jpg" else Image.fromarray(pixels)
            if file == "png" and i % 2:  # the same numbers as an indexed PNG
                pixels.putpalette([200, 0, 0, 0, 0, 200])
            pixels.save(path)
    return place


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return folder(tmp_path_factory.mktemp("segmentation"))


def test_maps_of_several_depths_have_the_grid_of_a_rectangle():
    backbone = randomise(MODELS.build(vit(out_indices=[0, 1], img_size=(32, 96))))
    images = torch.randn(2, 3, 32, 96)
    maps = backbone(images)
    assert [tuple(m.shape) for m in maps] == [(2, 48, 4, 12)] * 2
    raw = vit(out_indices=[0, 1], img_size=(32, 96), out_type="raw")
    raw = randomise(MODELS.build(raw))
    for feature_map, tokens in zip(maps, raw(images), strict=True):
        torch.testing.assert_close(feature_map, tokens.transpose(1, 2).view(2, 48, 4, 12))


def test_every_map_is_in_raster_order_under_blocks():
    """Change one patch; before attention only its own token changes."""
    backbone = randomise(MODELS.build(vit(out_indices=[0, 1])))
    for layer in backbone.layers:
        layer.attn.proj.weight.data.zero_()
    images = torch.randn(1, 3, 64, 64)
    changed = images.clone()
    changed[..., 24:32, 40:48] += 1  # patch (3, 5)
    for before, after in zip(backbone(images), backbone(changed), strict=True):
        assert (before != after).any(1)[0].nonzero().tolist() == [[3, 5]]


def test_logits_are_of_the_grid_and_labels_of_the_map():
    backbone = vit(out_indices=[0, 1])
    model = LinearSegmentor(backbone, num_classes=5).eval()
    images = torch.randn(2, 3, 64, 64)
    assert model(images).shape == (2, 5, 8, 8) and model.head[0].num_features == 96
    sample = DataSample(gt_seg_map=np.zeros((50, 70), np.uint8))
    first, second = model(images, [sample, DataSample()], mode="predict")
    assert first.pred_seg_map.shape == (50, 70) and second.pred_seg_map.shape == (64, 64)
    up = enlarge(model(images), (50, 70))
    assert torch.equal(first.pred_seg_map, up[0].argmax(0))
    linear = enlarge(torch.arange(4.0).view(1, 1, 1, 4), (1, 8))[0, 0, 0, 1:-1]
    torch.testing.assert_close(linear, torch.arange(0.25, 3, 0.5))  # half-pixel centres


def test_the_loss_is_the_mean_over_the_pixels_that_have_a_class():
    model = LinearSegmentor(vit(), num_classes=2)
    seg_map = np.full((8, 8), 255, np.uint8)
    seg_map[0, :3] = [0, 1, 1]
    logits = torch.randn(1, 2, 8, 8)
    loss = model.loss(logits, [DataSample(gt_seg_map=seg_map[:, ::-1][:, ::-1])])["loss"]
    log = logits.log_softmax(1)[0, :, 0]
    torch.testing.assert_close(loss, -(log[0, 0] + log[1, 1] + log[1, 2]) / 3)
    seg_map[:] = 255
    assert model.loss(logits, [DataSample(gt_seg_map=seg_map)])["loss"] == 0


def constant_prediction(data):
    """Compute the mIoU of predicting the more frequent of the two classes everywhere."""
    maps = [np.asarray(Image.open(path)) for path in data.rglob("annotations/*/*.png")]
    counts = sorted(sum((seg_map == i).sum() for seg_map in maps) for i in range(2))
    return 100 * counts[1] / sum(counts) / 2


class Losses(Hook):
    def __init__(self):
        self.seen = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.seen.append(float(outputs["loss"]))


def test_the_shipped_config_learns_maps_of_photographs(data, tmp_path):
    config = Config.fromfile(CONFIG)
    config.model.backbone.update(arch=arch(), img_size=64, patch_size=8, mask=MASKS["block"])
    config.model.backbone.update(out_indices=[0, 1], frozen_stages=2, init_cfg=None)
    config.model.num_classes = 2
    for loader in (config.train_dataloader, config.val_dataloader):
        loader.update(batch_size=8, num_workers=0, persistent_workers=False)
        loader.dataset.update(data_root=str(data), metainfo=dict(classes=["dark", "bright"]))
    config.train_dataloader.dataset.pipeline[2].scale = 64
    config.val_dataloader.dataset.pipeline[1].scale = (64, 64)
    config.train_cfg.update(max_epochs=15, global_batch=8, val_interval=99)
    config.default_hooks.checkpoint.interval = 99
    config.optim_wrapper.optimizer.lr = 0.01
    config.merge_from_dict(
        dict(work_dir=str(tmp_path), experiment_name=uuid.uuid4().hex, log_level="WARNING")
    )
    runner = Runner.from_cfg(config)
    runner.register_hook(losses := Losses())
    runner.train()
    figures = runner.val()
    assert np.mean(losses.seen[-5:]) < 0.5 * np.mean(losses.seen[:2])
    assert figures["seg/mIoU"] > 2 * constant_prediction(data)
    assert set(figures) == {"seg/mIoU", "seg/aAcc", "seg/IoU/dark", "seg/IoU/bright"}
    assert not any(p.requires_grad for p in runner.model.backbone.parameters())


def mean_iou(pairs, classes=3, names=None):
    metric = MeanIoU()
    metric.dataset_meta = dict(classes=names) if names else None
    for true, predicted in pairs:
        sample = dict(gt_seg_map=torch.tensor(true, dtype=torch.uint8), num_classes=classes)
        metric.process(None, [sample | dict(pred_seg_map=torch.tensor(predicted))])
    return metric.evaluate(len(pairs))


def test_iou_by_hand():
    """Class 0: 2 of 4; class 1: 1 of 3, over both images; class 2 never occurs."""
    figures = mean_iou([([[0, 0, 1]], [[0, 0, 0]]), ([[1, 0, 255]], [[1, 1, 1]])])
    assert figures["seg/IoU/0"] == pytest.approx(50)
    assert figures["seg/IoU/1"] == pytest.approx(100 / 3)
    assert figures["seg/mIoU"] == pytest.approx(125 / 3)
    assert figures["seg/aAcc"] == pytest.approx(60) and "seg/IoU/2" not in figures


def test_iou_equals_scikit_learns_jaccard_score():
    from sklearn.metrics import jaccard_score

    true, predicted = np.random.default_rng(0).integers(0, 4, (2, 30, 20))
    expected = 100 * jaccard_score(true.ravel(), predicted.ravel(), average="macro")
    figures = mean_iou([(true[:9], predicted[:9]), (true[9:], predicted[9:])], classes=4)
    assert figures["seg/mIoU"] == pytest.approx(expected)


def test_undefined_metrics_are_refused():
    with pytest.raises(ValueError, match="Every pixel of every segmentation map is 255"):
        mean_iou([([[255]], [[0]])])
    with pytest.raises(ValueError, match="names 2 classes and the model has 3"):
        mean_iou([([[0]], [[0]])], names=["a", "b"])


def test_a_class_that_the_model_lacks_is_named():
    model = LinearSegmentor(vit(), num_classes=2)
    sample = DataSample(gt_seg_map=np.array([[0, 7, 255]], np.uint8))
    sample.set_metainfo(dict(seg_map_path="a/b.png"))
    with pytest.raises(ValueError, match=r"'a/b\.png' holds the class 7.*allows 0 to 1, and 255"):
        model(torch.zeros(1, 3, 64, 64), [sample], mode="loss")
    with pytest.raises(ValueError, match=r"this MaskedViT has out_type='raw': set .*='featmap'"):
        LinearSegmentor(vit(out_type="raw"), num_classes=2)


def test_images_and_maps_are_paired_by_their_path(data):
    samples = SegmentationFolder(str(data))
    assert [samples.get_data_info(i)["seg_map_path"] for i in (0, 4)] == [
        f"{data}/annotations/0/0.png",
        f"{data}/annotations/1/1.png",
    ]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("rm annotations/0/2.png", r"1 of 8 files have no segmentation map .*images/0/2\.jpg'"),
        ("rm images/1/3.jpg", r"1 of 8 files have no image .*annotations/1/3\.png'"),
        ("cp images/1/3.bmp", r"images/1/3\.bmp' and .*3\.jpg' would share one"),
        ("rm -r", r"No images in .*images'\. Name your folder, with images/ and annotations/"),
    ],
)
def test_a_folder_with_an_unpaired_file_is_refused(tmp_path, change, sentence):
    command, _, name = change.partition(" ")
    if name != "-r":
        folder(tmp_path)
    if command == "cp":
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    elif name != "-r":
        (tmp_path / name).unlink()
    with pytest.raises(ValueError, match=sentence):
        SegmentationFolder(str(tmp_path))


def load(path, seg_map, shape=(4, 6), **options):
    seg_map.save(path)
    results = dict(seg_map_path=str(path), img_path="x.jpg", ori_shape=shape)
    return LoadSegMap(**options)(results)["gt_seg_map"]


def test_a_map_is_read_as_numbers_not_as_colours(tmp_path):
    numbers = np.arange(24, dtype=np.uint8).reshape(4, 6)
    numbers[0, 5] = 255
    grey = Image.fromarray(numbers)
    indexed = Image.fromarray(numbers)
    indexed.putpalette(np.random.default_rng(0).integers(0, 255, 768).tolist())
    for seg_map in (grey, indexed):
        assert np.array_equal(load(tmp_path / "x.png", seg_map), numbers)
    reduced = load(tmp_path / "x.png", grey, reduce_zero_label=True)
    assert reduced[0].tolist() == [255, 0, 1, 2, 3, 255] and reduced[3, 5] == 22
    assert load(tmp_path / "x.png", Image.new("1", (6, 4), 1)).tolist() == [[1] * 6] * 4


def test_an_invalid_map_is_refused(tmp_path):
    path = tmp_path / "x.png"
    with pytest.raises(ValueError, match=r"x\.png' has the shape \(4, 6, 3\) .*one 8-bit class"):
        load(path, Image.new("RGB", (6, 4)))
    with pytest.raises(ValueError, match=r"x\.png' has the shape \(4, 6\) and the type \w+16"):
        load(path, Image.new("I;16", (6, 4)))
    with pytest.raises(ValueError, match=r"has \(4, 6\) pixels .* image 'x\.jpg' \(6, 4\)"):
        load(path, Image.new("L", (6, 4)), shape=(6, 4))
    path.write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"Cannot read the segmentation map .*x\.png'"):
        LoadSegMap()(dict(seg_map_path=str(path), ori_shape=(4, 6)))


def test_crop_and_flip_keep_image_and_map_together(data):
    """The map holds the pixel values, so the crop of the map must equal the cropped image."""
    pixels = np.random.default_rng(0).integers(0, 255, (40, 56, 3), np.uint8)
    crop = RandomResizedCropWithSegMap(24, interpolation="nearest", backend="pillow")
    for _ in range(5):
        results = crop(dict(img=pixels, gt_seg_map=pixels[..., 1]))
        assert results["img_shape"] == results["gt_seg_map"].shape == (24, 24)
        assert np.array_equal(results["img"][..., 1], results["gt_seg_map"])
    pipeline = Config.fromfile(CONFIG).train_dataloader.dataset.pipeline
    samples = SegmentationFolder(str(data), pipeline=pipeline)
    one, again, other = (samples[1, epoch, 0] for epoch in (0, 0, 1))
    same = [
        np.array_equal(x["data_samples"].gt_seg_map, one["data_samples"].gt_seg_map)
        for x in (again, other)
    ]
    assert same == [True, False] and torch.equal(one["inputs"], again["inputs"])


def test_a_map_of_another_size_is_not_cropped():
    crop = RandomResizedCropWithSegMap(8)
    with pytest.raises(ValueError, match=r"\(8, 8\) pixels when .* map \(16, 16\): load both"):
        crop(dict(img=np.zeros((8, 8, 3), np.uint8), gt_seg_map=np.zeros((16, 16), np.uint8)))


def test_the_image_may_be_resized_before_its_map_is_loaded(data):
    pipeline = Config.fromfile(CONFIG).val_dataloader.dataset.pipeline
    sample = SegmentationFolder(str(data), pipeline=pipeline)[0]
    assert sample["inputs"].shape == (3, 256, 256)
    assert sample["data_samples"].gt_seg_map.shape == (80, 96)
    assert LoadImage()(dict(img_path=f"{data}/images/0/0.jpg"))["img"].shape == (80, 96, 3)
