"""Attentive probe on iNaturalist 2018. Folder layout: ../_base_/data/inat18.py."""

_base_ = ["../_base_/attentive.py", "../_base_/data/inat18.py"]

model = dict(
    head=dict(
        num_classes=_base_.num_classes,
        rates=[1e-4, 3e-4, 5e-4, 1e-3, 1.5e-3, 2e-3, 4e-3, 8e-3, 1e-2, 1e-1],
    )
)

work_dir = "work_dirs/attentive/inat18"
