"""A decoder as wide as the encoder (width_1.0x.yaml)."""

_base_ = ["baseline.py"]

model = dict(neck=dict(width=768))
