"""MAE ViT-H/14 on ImageNet-1k. Expected (the paper's, after 1600 epochs): 76.6 linear."""

_base_ = ["mae_vit-b16.py"]

model = dict(backbone=dict(arch="huge", patch_size=14))
