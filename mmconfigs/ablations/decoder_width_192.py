"""A decoder a quarter as wide as the encoder (width_0.25x.yaml)."""

_base_ = ["baseline.py"]

model = dict(neck=dict(width=192))
