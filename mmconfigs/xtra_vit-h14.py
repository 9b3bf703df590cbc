"""XTRA ViT-H/14 on ImageNet-21k: Sample- and Parameter-Efficient Auto-Regressive Image Models.

Paper: arXiv 2411.15648 (CVPR 2025); code elad-amrani/xtra at e711fb5.

    mim train mmpretrain mmconfigs/xtra_vit-h14.py

The data is a folder of ImageNet-21k; name it with --cfg-options
train_dataloader.dataset.data_root=/path. Cost: 100 epochs of 13.1 M images at batch 2048, 640,000
steps. Expected (reported by the paper, not reproduced here): 80.9 by attentive probe on
ImageNet-1k.
"""

_base_ = ["xtra_vit-b16.py"]

model = dict(
    backbone=dict(arch="huge", img_size=224, patch_size=14, drop_path_rate=0.2),
    neck=dict(projection=5120, width=640, heads=8),
    head=dict(hidden=9408),
)

train_dataloader = dict(
    dataset=dict(
        data_root="data/imagenet21k",
        pipeline=[
            dict(type="xtra_toolkit.ReadImage"),
            dict(
                type="xtra_toolkit.RandomResizedCrop",
                scale=224,
                crop_ratio_range=(0.3, 1.0),
                aspect_ratio_range=(0.75, 1.5),
            ),
            dict(type="xtra_toolkit.RandomFlip", prob=0.5),
            dict(type="xtra_toolkit.PackInputs"),
        ],
    )
)

train_cfg = dict(max_epochs=100)

param_scheduler = [
    dict(type="mmengine.LinearLR", start_factor=0.1, end=3, convert_to_iter_based=True),
    dict(
        type="mmengine.CosineAnnealingLR",
        eta_min=1e-6,
        begin=3,
        end=100,
        convert_to_iter_based=True,
    ),
]
