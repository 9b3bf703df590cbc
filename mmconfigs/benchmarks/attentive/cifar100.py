"""Attentive probe on CIFAR-100. Folder layout: ../_base_/data/cifar100.py."""

_base_ = ["../_base_/attentive_transfer.py", "../_base_/data/cifar100.py"]

model = dict(head=dict(num_classes=_base_.num_classes))

work_dir = "work_dirs/attentive/cifar100"
