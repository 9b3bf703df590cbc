"""A decoder three quarters as wide as the encoder (width_0.75x.yaml)."""

_base_ = ["baseline.py"]

model = dict(neck=dict(width=576))
