"""Attentive probe on Describable Textures. Folder layout: ../_base_/data/dtd.py."""

_base_ = ["../_base_/attentive_transfer.py", "../_base_/data/dtd.py"]

model = dict(head=dict(num_classes=_base_.num_classes))
train_cfg = dict(global_batch=128)

work_dir = "work_dirs/attentive/dtd"
