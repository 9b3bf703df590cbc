"""A decoder of 2 layer(s) (depth_2.yaml)."""

_base_ = ["baseline.py"]

model = dict(neck=dict(depth=2))
