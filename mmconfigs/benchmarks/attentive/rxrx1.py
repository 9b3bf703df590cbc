"""Attentive probe on RxRx1. Folder layout: ../_base_/data/rxrx1.py."""

_base_ = ["../_base_/attentive_transfer.py", "../_base_/data/rxrx1.py"]

model = dict(head=dict(num_classes=_base_.num_classes))

work_dir = "work_dirs/attentive/rxrx1"
