"""Attentive probe on PatchCamelyon. Folder layout: ../_base_/data/pcam.py."""

_base_ = ["../_base_/attentive_transfer.py", "../_base_/data/pcam.py"]

model = dict(head=dict(num_classes=_base_.num_classes))
train_cfg = dict(global_batch=4096)

work_dir = "work_dirs/attentive/pcam"
