"""A decoder of 16 layers (depth_16.yaml)."""

_base_ = ["baseline.py"]

model = dict(neck=dict(depth=16))
