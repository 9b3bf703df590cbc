"""224 px, patch 14, blocks of 4×4 tokens, 56 px (block_1x56x56_res_224.yaml)."""

_base_ = ["resolution_224_patch_14_block_1.py"]

model = dict(mask=dict(block_size=4))
