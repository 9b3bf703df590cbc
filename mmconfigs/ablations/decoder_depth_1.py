"""A decoder of 1 layer (depth_1.yaml)."""

_base_ = ["baseline.py"]

model = dict(neck=dict(depth=1))
