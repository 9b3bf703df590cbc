"""A decoder of 4 layers (depth_4.yaml)."""

_base_ = ["baseline.py"]

model = dict(neck=dict(depth=4))
