"""Attentive probe on ImageNet-1k. Folder layout: ../_base_/data/imagenet.py."""

_base_ = ["../_base_/attentive.py", "../_base_/data/imagenet.py"]

model = dict(head=dict(num_classes=_base_.num_classes))

work_dir = "work_dirs/attentive/imagenet"
