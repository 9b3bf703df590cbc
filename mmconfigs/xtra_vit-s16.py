"""XTRA with a ViT-S/16, for one GPU: the recipe of xtra_vit-b16.py at half the width.

    mim train mmpretrain mmconfigs/xtra_vit-s16.py

Decoder and head keep their proportions to the encoder. 100 epochs at batch 512; the rate follows
the square root of the batch, 1e-3 for 2048 images.

Cost: 21.7 M parameters in the encoder, 94.2 M in training; 21.4 GFLOP an image
forward, 8.2 EFLOP for 100 epochs of ImageNet-1k. Nothing was measured with it yet.
"""

_base_ = ["xtra_vit-b16.py"]

model = dict(
    backbone=dict(arch="deit-small"),
    neck=dict(projection=2048, width=384),
    head=dict(hidden=3072),
)

train_dataloader = dict(batch_size=128)
train_cfg = dict(max_epochs=100, global_batch=512)
optim_wrapper = dict(optimizer=dict(lr=5e-4))
param_scheduler = [
    dict(type="mmengine.LinearLR", start_factor=0.1, end=5, convert_to_iter_based=True),
    dict(
        type="mmengine.CosineAnnealingLR",
        eta_min=1e-6,
        begin=5,
        end=100,
        convert_to_iter_based=True,
    ),
]
