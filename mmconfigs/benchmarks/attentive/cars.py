"""Attentive probe on Stanford Cars. Folder layout: ../_base_/data/cars.py."""

_base_ = ["../_base_/attentive_transfer.py", "../_base_/data/cars.py"]

model = dict(
    head=dict(
        num_classes=_base_.num_classes,
        rates=[1e-4, 3e-4, 5e-4, 1e-3, 1.5e-3, 2e-3, 4e-3, 8e-3, 1e-2, 1e-1],
    )
)
train_cfg = dict(global_batch=128)

work_dir = "work_dirs/attentive/cars"
