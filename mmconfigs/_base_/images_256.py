"""Load any folder of images, labelled or not, with XTRA's augmentation at 256 px.

Name the folder with --cfg-options train_dataloader.dataset.data_root=/path/to/images.
"""

data_preprocessor = dict(
    type="mmpretrain.SelfSupDataPreprocessor",
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    to_rgb=True,
)

train_dataloader = dict(
    batch_size=32,
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    collate_fn=dict(type="xtra_toolkit.channels_last_collate"),
    sampler=dict(type="xtra_toolkit.GlobalBatchSampler"),
    dataset=dict(
        type="xtra_toolkit.ImageFolder",
        data_root="data/imagenet/train",
        pipeline=[
            dict(type="xtra_toolkit.ReadImage"),
            dict(
                type="xtra_toolkit.RandomResizedCrop",
                scale=256,
                crop_ratio_range=(0.3, 1.0),
                aspect_ratio_range=(0.75, 1.5),
            ),
            dict(type="xtra_toolkit.RandomFlip", prob=0.5),
            dict(type="xtra_toolkit.PackInputs"),
        ],
    ),
)
