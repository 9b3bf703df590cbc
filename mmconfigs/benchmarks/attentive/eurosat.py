"""Attentive probe on EuroSAT. Folder layout: ../_base_/data/eurosat.py."""

_base_ = ["../_base_/attentive_transfer.py", "../_base_/data/eurosat.py"]

model = dict(head=dict(num_classes=_base_.num_classes))

work_dir = "work_dirs/attentive/eurosat"
