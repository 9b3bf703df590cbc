"""XTRA with a ViT-Ti/16, for one GPU: xtra_vit-s16.py at half the width.

    mim train mmpretrain mmconfigs/xtra_vit-ti16.py

Cost: 5.5 M parameters in the encoder, 33.1 M in training; 6.1 GFLOP an image
forward, 2.3 EFLOP for 100 epochs of ImageNet-1k. Nothing was measured with it yet.
"""

_base_ = ["xtra_vit-s16.py"]

model = dict(
    backbone=dict(arch="deit-tiny"),
    neck=dict(projection=1024, width=192, heads=3),
    head=dict(hidden=1536),
)
