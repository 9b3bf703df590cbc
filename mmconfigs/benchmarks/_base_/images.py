"""Pipelines and loaders that all benchmarks share, at the 256 px at which XTRA-B/16 is probed.

Training uses timm's rand-m9-mstd0.5-inc1 with random erasing of 0.25, by MMPretrain's transforms:
the operations are those of the original (elad-amrani/xtra at e711fb5), the random draws are not.
``crop_pipeline`` is the crop and flip of the linear probe. Validation resizes the shorter side to
300 and crops the centre to 256. Step 1 of each pipeline sets the size, and in validation step 2
too. The paper's mean over 15 benchmarks is of XTRA-H/14 at 224 px, which needs:

    --cfg-options
        train_dataloader.dataset.pipeline.1.scale=224
        val_dataloader.dataset.pipeline.1.scale=256 val_dataloader.dataset.pipeline.2.crop_size=224
"""

image_size = 256
resized = 300

BGR_MEAN = [103.53, 116.28, 123.675]
BGR_STD = [57.375, 57.12, 58.395]

load = dict(type="xtra_toolkit.LoadImage")
read = dict(type="xtra_toolkit.ReadImage")  # RandomResizedCrop decodes the image
crop_and_flip = [
    dict(
        type="xtra_toolkit.RandomResizedCrop",
        scale=image_size,
        crop_ratio_range=(0.08, 1.0),
    ),
    dict(type="xtra_toolkit.RandomFlip", prob=0.5),
]
pack = dict(type="xtra_toolkit.PackInputs")

crop_pipeline = [read, *crop_and_flip, pack]
train_pipeline = [
    read,
    *crop_and_flip,
    dict(
        type="mmpretrain.RandAugment",
        policies="timm_increasing",
        num_policies=2,
        total_level=10,
        magnitude_level=9,
        magnitude_std=0.5,
        hparams=dict(pad_val=[104, 116, 124], interpolation="bicubic"),
    ),
    dict(
        type="mmpretrain.RandomErasing",
        erase_prob=0.25,
        mode="rand",
        min_area_ratio=0.02,
        max_area_ratio=1 / 3,
        fill_color=BGR_MEAN,
        fill_std=BGR_STD,
    ),
    pack,
]
val_pipeline = [
    load,
    dict(
        type="mmpretrain.ResizeEdge",
        scale=resized,
        edge="short",
        backend="pillow",
        interpolation="bicubic",
    ),
    dict(type="mmpretrain.CenterCrop", crop_size=image_size),
    pack,
]

loader = dict(
    batch_size=128,
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    collate_fn=dict(type="xtra_toolkit.channels_last_collate"),
)
train_loader = dict(**loader, sampler=dict(type="xtra_toolkit.GlobalBatchSampler"))
val_loader = dict(**loader, sampler=dict(type="mmengine.DefaultSampler", shuffle=False))

# for mim test; the data configs name test_dataloader
test_cfg = dict(type="xtra_toolkit.InferenceTestLoop")
test_evaluator = dict(type="xtra_toolkit.SweepAccuracy")
