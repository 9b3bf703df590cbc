"""MAE with a ViT-Ti/16, for one GPU: mae_vit-s16.py at half the width.

    mim train mmpretrain mmconfigs/mae_vit-ti16.py

Cost: 5.5 M parameters in the encoder, 6.5 M in training; 1.0 GFLOP an image
forward, 0.4 EFLOP for 100 epochs of ImageNet-1k. Nothing was measured with it yet.
"""

_base_ = ["mae_vit-s16.py"]

model = dict(backbone=dict(arch="deit-tiny"), neck=dict(width=128, heads=4))
