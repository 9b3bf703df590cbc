"""Blocks of 2×2 tokens, 32 px (block_1x32x32.yaml)."""

_base_ = ["baseline.py"]

model = dict(mask=dict(block_size=2))
