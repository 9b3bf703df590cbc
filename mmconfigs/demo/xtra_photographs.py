"""A small XTRA on crops of a few photographs, for its pictures; no features to speak of.

    python docs/photographs.py

writes the photographs and runs this config and mae_photographs.py: 64 px, patch 8, blocks of 2×2
tokens. Training crops come from Debian's wallpapers; what is drawn are samples of scikit-image and
scikit-learn, which are not trained on.
"""

_base_ = ["../_base_/runtime.py", "../_base_/images_256.py"]

model = dict(
    type="xtra_toolkit.MaskTargetPretrainer",
    data_preprocessor={{_base_.data_preprocessor}},
    mask=dict(type="xtra_toolkit.BlockCausal", block_size=2),
    target_generator=dict(type="xtra_toolkit.NextBlock", normalise=True),
    backbone=dict(
        type="xtra_toolkit.MaskedViT",
        arch=dict(embed_dims=256, num_layers=6, num_heads=4, feedforward_channels=1024),
        img_size=64,
        patch_size=8,
    ),
    neck=dict(type="xtra_toolkit.ViTDecoder", projection=1024, width=192, depth=3, heads=3),
    head=dict(type="xtra_toolkit.PredictionHead", hidden=1024, loss="mse"),
)

train_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        data_root="work_dirs/photographs/train",
        pipeline=[
            dict(type="xtra_toolkit.ReadImage"),
            dict(type="xtra_toolkit.RandomResizedCrop", scale=64, crop_ratio_range=(0.1, 1.0)),
            dict(type="xtra_toolkit.RandomFlip", prob=0.5),
            dict(type="xtra_toolkit.PackInputs"),
        ],
    ),
)
val_dataloader = dict(
    batch_size=6,
    num_workers=0,
    persistent_workers=False,
    collate_fn=dict(type="mmengine.default_collate"),
    sampler=dict(type="mmengine.DefaultSampler", shuffle=False),
    dataset=dict(
        type="xtra_toolkit.ImageFolder",
        data_root="work_dirs/photographs/val",
        pipeline=[
            dict(type="xtra_toolkit.LoadImage"),
            dict(type="mmpretrain.ResizeEdge", scale=64, edge="short", backend="pillow"),
            dict(type="mmpretrain.CenterCrop", crop_size=64),
            dict(type="mmpretrain.PackInputs"),
        ],
    ),
)
val_evaluator = dict(type="xtra_toolkit.PretrainLoss")
val_cfg = dict()

# one step is an epoch, because there are few photographs and any number of crops
train_cfg = dict(
    type="xtra_toolkit.GlobalBatchLoop", max_epochs=2000, global_batch=32, val_interval=200
)
optim_wrapper = dict(devices=["cuda", "cpu"])
param_scheduler = [
    dict(type="mmengine.LinearLR", start_factor=0.1, end=100, convert_to_iter_based=True),
    dict(type="mmengine.CosineAnnealingLR", begin=100, end=2000, convert_to_iter_based=True),
]
default_hooks = dict(
    checkpoint=dict(interval=1000, max_keep_ckpts=1),
    reconstruction=dict(interval=500),
    split_loss=dict(type="xtra_toolkit.SplitLoss", interval=50),
)
