"""ViT-B/16 on ImageNet-1k: predict tokens one by one in random order, each from a query (RandAR).

Paper: arXiv 2412.01827.

    pip install ./plugins/block_orders ./plugins/parallel_sets
    mim train mmpretrain plugins/parallel_sets/randar_vit-b16.py

The sequence is RandAR's: a position instruction token, which is a mask token with the position of
the next token, then this token, and so on, all causal, in one transformer without a decoder. RandAR
predicts ids of a tokenizer for a class of image; this config predicts pixels, without a class, and
the first token is known. Its positions are learned, RandAR's are rotary (rope='eva02'). The recipe
is that of aim_vit-b16.py, at 224 px. Cost: 800 epochs of 1.28 M images at batch 2048, 500,000
steps, each with 391 positions in the encoder. Nothing was measured with it yet.
"""

_base_ = ["../../mmconfigs/aim_vit-b16.py"]

custom_imports = dict(imports=["xtra_toolkit", "block_orders", "parallel_sets"])

model = dict(
    mask=dict(
        _delete_=True,
        type="xtra_toolkit.ParallelSets",
        mask=dict(
            type="xtra_toolkit.Reordered",
            mask=dict(type="xtra_toolkit.TokenCausal"),
            order=dict(type="xtra_toolkit.RandomOrder"),
        ),
    ),
    target_generator=dict(_delete_=True, type="xtra_toolkit.MaskedPatches", normalise=True),
    backbone=dict(img_size=224, mask_tokens=True),
    neck=None,
    head=dict(hidden=None),
)

train_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type="xtra_toolkit.ReadImage"),
            dict(type="xtra_toolkit.RandomResizedCrop", scale=224, crop_ratio_range=(0.2, 1.0)),
            dict(type="xtra_toolkit.RandomFlip", prob=0.5),
            dict(type="xtra_toolkit.PackInputs"),
        ]
    )
)
