"""MAE ViT-L/16 on ImageNet-1k. Expected (the paper's, after 1600 epochs): 75.8 linear."""

_base_ = ["mae_vit-b16.py"]

model = dict(backbone=dict(arch="large"))
