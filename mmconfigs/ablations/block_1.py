"""Blocks of 1×1 token, that is token-causal with the next token (block_1x16x16.yaml)."""

_base_ = ["baseline.py"]

model = dict(mask=dict(block_size=1))
