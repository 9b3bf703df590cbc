"""Blocks of 2×2 tokens, the next two blocks, with one head for each (block_2x32x32.yaml)."""

_base_ = ["block_2.py"]

model = dict(target_generator=dict(look_ahead=2))
