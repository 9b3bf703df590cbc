"""A decoder of 2 layers (depth_2.yaml)."""

_base_ = ["baseline.py"]

model = dict(neck=dict(depth=2))
