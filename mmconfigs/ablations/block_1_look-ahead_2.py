"""Token-causal, the next two tokens, with one head for each (block_2x16x16.yaml)."""

_base_ = ["block_1.py"]

model = dict(target_generator=dict(look_ahead=2))
