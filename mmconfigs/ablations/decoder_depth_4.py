"""A decoder of 4 layer(s) (depth_4.yaml)."""

_base_ = ["baseline.py"]

model = dict(neck=dict(depth=4))
