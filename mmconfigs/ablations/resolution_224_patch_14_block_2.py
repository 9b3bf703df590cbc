"""224 px, patch 14, blocks of 2×2 tokens, 28 px (block_1x28x28_res_224.yaml)."""

_base_ = ["resolution_224_patch_14_block_1.py"]

model = dict(mask=dict(block_size=2))
