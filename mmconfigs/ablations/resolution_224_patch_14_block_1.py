"""224 px, patch 14, token-causal (block_1x14x14_res_224.yaml)."""

_base_ = ["resolution_224_block_1.py"]

model = dict(backbone=dict(patch_size=14))
