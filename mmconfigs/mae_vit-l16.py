"""MAE ViT-L/16 on ImageNet-1k, the paper's default. Expected (the paper's): 75.8 linear."""

_base_ = ["mae_vit-b16.py"]

model = dict(backbone=dict(arch="large"))
