"""Attentive probe on iWildCam. Folder layout: ../_base_/data/iwildcam.py."""

_base_ = ["../_base_/attentive_transfer.py", "../_base_/data/iwildcam.py"]

model = dict(head=dict(num_classes=_base_.num_classes))

work_dir = "work_dirs/attentive/iwildcam"
