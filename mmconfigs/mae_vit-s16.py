"""MAE with a ViT-S/16, for one GPU: mae_vit-b16.py at half the width.

    mim train mmpretrain mmconfigs/mae_vit-s16.py

100 epochs at batch 512, MAE's rate of 1.5e-4 for 256 images.

Cost: 21.7 M parameters in the encoder, 25.2 M in training; 3.6 GFLOP an image
forward, 1.4 EFLOP for 100 epochs of ImageNet-1k. Nothing was measured with it yet.
"""

_base_ = ["mae_vit-b16.py"]

model = dict(backbone=dict(arch="deit-small"), neck=dict(width=256, depth=4, heads=8))

train_dataloader = dict(batch_size=128)
train_cfg = dict(max_epochs=100, global_batch=512)
optim_wrapper = dict(optimizer=dict(lr=3e-4))
param_scheduler = [
    dict(type="mmengine.LinearLR", start_factor=1e-6, end=5, convert_to_iter_based=True),
    dict(type="mmengine.CosineAnnealingLR", begin=5, end=100, convert_to_iter_based=True),
]
