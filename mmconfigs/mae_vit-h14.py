"""MAE ViT-H/14 on ImageNet-1k. Expected (paper, 1600 epochs): 76.6 by linear probe."""

_base_ = ["mae_vit-b16.py"]

model = dict(backbone=dict(arch="huge", patch_size=14))
