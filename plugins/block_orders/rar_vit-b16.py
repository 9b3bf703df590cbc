"""ViT-B/16 on ImageNet-1k: predict the next token in an order that becomes raster order (RAR).

Paper: arXiv 2411.00776; code bytedance/1d-tokenizer (modeling/rar.py).

    pip install ./plugins/block_orders
    mim train mmpretrain plugins/block_orders/rar_vit-b16.py

Each image has an order of its own with a probability that is 1 in the first half of the training
and falls to 0 until three quarters of it; else it is in raster order. The decoder is told the
position of the next token. RAR predicts ids of a tokenizer for a class of image; this config
predicts pixels, without a class, by the architecture and the recipe of aim_vit-b16.py. Cost: as
aim_vit-b16.py, 800 epochs of 1.28 M images at batch 2048, 500,000 steps. Nothing was measured with
it yet.
"""

_base_ = ["../../mmconfigs/aim_vit-b16.py"]

custom_imports = dict(imports=["xtra_toolkit", "block_orders"])

model = dict(
    mask=dict(
        _delete_=True,
        type="xtra_toolkit.Reordered",
        mask=dict(type="xtra_toolkit.TokenCausal"),
        order=dict(type="xtra_toolkit.AnnealedOrder", start=0.5, end=0.75),
    ),
    target_generator=dict(positioned=True),
)
