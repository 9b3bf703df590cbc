"""Blocks of 4×4 tokens, the next two blocks, a head each (block_2x64x64.yaml)."""

_base_ = ["baseline.py"]

model = dict(target_generator=dict(look_ahead=2))
