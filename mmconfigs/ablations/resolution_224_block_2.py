"""224 px, patch 16, blocks of 2×2 tokens (block_1x32x32_res_224.yaml)."""

_base_ = ["resolution_224_block_1.py"]

model = dict(mask=dict(block_size=2))
