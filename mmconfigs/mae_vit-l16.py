"""MAE ViT-L/16 on ImageNet-1k. Expected (paper, 1600 epochs): 75.8 by linear probe."""

_base_ = ["mae_vit-b16.py"]

model = dict(backbone=dict(arch="large"))
