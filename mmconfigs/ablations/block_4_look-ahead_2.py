"""Blocks of 4×4 tokens, the next two blocks, with one head for each (block_2x64x64.yaml)."""

_base_ = ["baseline.py"]

model = dict(target_generator=dict(look_ahead=2))
