"""A small XTRA on CIFAR-10: 8×8 tokens of 4×4 px, blocks of 2×2 tokens.

    xtra compare mmconfigs/small/cifar10_{xtra,aim,mae}.py --data cifar10

Encoder 128 wide of 4 layers, 0.8 M parameters, 1.3 M in training; 145 MFLOP an image forward, some
145 images a second on an idle core. Measured (docs/compare.md), one seed, after 49,984 images:
linear probe of 10,000 labels 44.8 %, attentive 47.0 %; a random encoder reaches 39.1 and 42.9 %,
raw pixels 38.4 %. Weights start as truncated normals of 0.02, as XTRA's; at this width
xavier-uniform ones are probably better (see demo/xtra_digits.py) and were not tried yet.
"""

_base_ = ["../_base_/runtime.py", "../_base_/xavier.py"]

pipeline = [
    dict(type="xtra_toolkit.RandomFlip", prob=0.5),
    dict(type="xtra_toolkit.PackInputs"),
]

model = dict(
    type="xtra_toolkit.MaskTargetPretrainer",
    data_preprocessor=dict(
        type="mmpretrain.SelfSupDataPreprocessor",
        mean=[125.3, 123.0, 113.9],
        std=[63.0, 62.1, 66.7],
        to_rgb=False,
    ),
    mask=dict(type="xtra_toolkit.BlockCausal", block_size=2),
    target_generator=dict(type="xtra_toolkit.NextBlock", normalise=True),
    backbone=dict(
        type="xtra_toolkit.MaskedViT",
        arch=dict(embed_dims=128, num_layers=4, num_heads=4, feedforward_channels=512),
        img_size=32,
        patch_size=4,
        init_cfg=_base_.xavier,
    ),
    neck=dict(
        type="xtra_toolkit.ViTDecoder",
        projection=256,
        width=96,
        depth=2,
        heads=3,
        init_cfg=_base_.xavier,
    ),
    head=dict(type="xtra_toolkit.PredictionHead", hidden=384, loss="mse", init_cfg=_base_.xavier),
)

train_dataloader = dict(
    batch_size=64,
    num_workers=0,
    persistent_workers=False,
    collate_fn=dict(type="xtra_toolkit.channels_last_collate"),
    sampler=dict(type="xtra_toolkit.GlobalBatchSampler"),
    dataset=dict(type="xtra_toolkit.PackedImages", data_root="data/cifar10", pipeline=pipeline),
)

train_cfg = dict(type="xtra_toolkit.GlobalBatchLoop", max_epochs=2, global_batch=64)
optim_wrapper = dict(optimizer=dict(lr=2e-3))
# a tenth of the run is warm-up
param_scheduler = [
    dict(type="mmengine.LinearLR", start_factor=0.1, end=0.2, convert_to_iter_based=True),
    dict(type="mmengine.CosineAnnealingLR", begin=0.2, end=2, convert_to_iter_based=True),
]
default_hooks = dict(
    logger=dict(interval=50),
    checkpoint=dict(interval=1, max_keep_ckpts=1),
)
