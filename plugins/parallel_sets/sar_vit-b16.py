"""ViT-B/16 on ImageNet-1k: predict sets of drawn size in random order (SAR).

Paper: arXiv 2410.10511; code poppuppy/SAR.

    pip install ./plugins/block_orders ./plugins/parallel_sets
    mim train mmpretrain plugins/parallel_sets/sar_vit-b16.py

The encoder holds the tokens under a set-causal mask. The queries, in the decoder, attend to what
the encoder makes of earlier sets, and not to each other. SAR predicts ids of a tokenizer for a
class of image; this config predicts pixels, without a class. The schedules of the sizes are not
SAR's: each cut into 2 to 64 sets is as likely. The recipe is that of mae_vit-b16.py. Cost: 800
epochs of 1.28 M images at batch 4096, 250,000 steps, each with 196 tokens in the encoder and 392
in the decoder. Nothing was measured with it yet.
"""

_base_ = ["../../mmconfigs/mae_vit-b16.py"]

custom_imports = dict(imports=["xtra_toolkit", "block_orders", "parallel_sets"])

model = dict(
    mask=dict(
        _delete_=True,
        type="xtra_toolkit.ParallelSets",
        num_sets=(2, 64),
        mask=dict(
            type="xtra_toolkit.Reordered",
            mask=dict(type="xtra_toolkit.TokenCausal"),
            order=dict(type="xtra_toolkit.RandomOrder"),
        ),
    ),
    backbone=dict(with_cls_token=False),
    neck=dict(type="xtra_toolkit.CrossDecoder"),
)
