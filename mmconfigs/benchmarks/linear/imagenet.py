"""Linear probe on ImageNet-1k. Folder layout: ../_base_/data/imagenet.py."""

_base_ = ["../_base_/linear.py", "../_base_/data/imagenet.py"]

model = dict(head=dict(num_classes=_base_.num_classes))
train_dataloader = dict(dataset=dict(pipeline=_base_.crop_pipeline))

work_dir = "work_dirs/linear/imagenet"
