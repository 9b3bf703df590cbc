"""ViT-B/16 on ImageNet-1k: predict square segments in random order (RandSAC).

Paper: arXiv 2203.12054.

    pip install ./plugins/block_orders ./plugins/parallel_sets
    mim train mmpretrain plugins/parallel_sets/randsac_vit-b16.py

The tokens of a segment of 2×2 are predicted in parallel from all earlier segments. The original's
blobs, its hierarchy of segments and its decoder with learned skip connections to layers of the
encoder are left out. The recipe is that of mae_vit-b16.py. Cost: as sar_vit-b16.py. Nothing was
measured with it yet.
"""

_base_ = ["./sar_vit-b16.py"]

model = dict(
    mask=dict(
        num_sets=None,
        mask=dict(mask=dict(_delete_=True, type="xtra_toolkit.BlockCausal", block_size=2)),
    )
)
