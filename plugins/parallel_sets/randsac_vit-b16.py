"""ViT-B/16 on ImageNet-1k: predict square segments in random order (RandSAC).

Paper: arXiv 2203.12054.

    pip install ./plugins/block_orders ./plugins/parallel_sets
    mim train mmpretrain plugins/parallel_sets/randsac_vit-b16.py

The tokens of a segment of 2×2 are predicted in parallel from all earlier segments. Each layer of
the decoder reads a learned weighted sum of all layers of the encoder, for the original's learned
skip connections. Its blobs and its hierarchy of segments are left out. The recipe is that of
mae_vit-b16.py. Cost: 800 epochs of 1.28 M images at batch 4096, 250,000 steps, each with 192 tokens
in the encoder and 196 in the decoder. Nothing was measured with it yet.
"""

_base_ = ["./sar_vit-b16.py"]

model = dict(
    mask=dict(
        num_sets=None,
        mask=dict(mask=dict(_delete_=True, type="xtra_toolkit.BlockCausal", block_size=2)),
    ),
    backbone=dict(final_norm=False),
    neck=dict(memory_layers=list(range(13))),
)
