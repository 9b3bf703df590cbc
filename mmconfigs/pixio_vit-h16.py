"""Pixio ViT-H/16 on ImageNet-21k: MAE with larger masked blocks, class tokens and a deeper decoder.

Paper: arXiv 2512.15715; code facebookresearch/pixio at b83555d (pretrain_pixio_vith16_imagenet.sh).

    mim train mmpretrain mmconfigs/pixio_vit-h16.py

The eight class tokens are one class token and seven registers, which are the same under this mask.
Cost: 400 epochs of 13.1 M images at batch 8192, 642,000 steps. The paper's larger models are
trained on 2 B images of the web, drawn by their loss; that is not built. Nothing was measured with
this recipe yet.
"""

_base_ = ["mae_vit-b16.py"]

model = dict(
    mask=dict(block_size=4),
    backbone=dict(arch="huge", img_size=256, registers=7, positions="learned", drop_path_rate=0.4),
    neck=dict(depth=32, positions="learned"),
)

train_dataloader = dict(
    dataset=dict(
        data_root="data/imagenet-21k",
        pipeline=[
            dict(type="xtra_toolkit.ReadImage"),
            dict(
                type="xtra_toolkit.RandomResizedCrop",
                scale=256,
                crop_ratio_range=(0.2, 1.0),
            ),
            dict(type="xtra_toolkit.PackInputs"),
        ],
    )
)

train_cfg = dict(max_epochs=400, global_batch=8192)

# 2.5e-5 for each 256 images of the batch
optim_wrapper = dict(optimizer=dict(lr=8e-4))

param_scheduler = [
    dict(type="mmengine.LinearLR", start_factor=1e-6, end=40, convert_to_iter_based=True),
    dict(type="mmengine.CosineAnnealingLR", begin=40, end=400, convert_to_iter_based=True),
]
