"""A small XTRA on Fashion-MNIST: 16×16 tokens, blocks of 4×4. One of the runs of ``make compare``.

28×28 px padded to 32×32, patch 2; encoder 96 wide, 4 layers. The target is raw pixels in all runs:
a patch of four values says little once its mean and variance are taken away.
"""

_base_ = ["../_base_/runtime.py"]

pipeline = [
    dict(type="mmpretrain.NumpyToPIL"),
    dict(type="mmpretrain.torchvision/Pad", padding=2),
    dict(type="mmpretrain.PILToNumpy"),
    dict(type="mmpretrain.PackInputs"),
]

model = dict(
    type="xtra_toolkit.MaskTargetPretrainer",
    data_preprocessor=dict(
        type="mmpretrain.SelfSupDataPreprocessor", mean=[72.9], std=[90.0], to_rgb=False
    ),
    mask=dict(type="xtra_toolkit.BlockCausal", block_size=4),
    target_generator=dict(type="xtra_toolkit.NextBlock", normalise=False),
    backbone=dict(
        type="xtra_toolkit.MaskedViT",
        arch=dict(embed_dims=96, num_layers=4, num_heads=3, feedforward_channels=384),
        img_size=32,
        patch_size=2,
        in_channels=1,
    ),
    neck=dict(type="xtra_toolkit.ViTDecoder", projection=384, width=64, depth=2, heads=2),
    head=dict(type="xtra_toolkit.PredictionHead", hidden=512, loss="mse"),
)

train_dataloader = dict(
    batch_size=64,
    num_workers=0,
    persistent_workers=False,
    collate_fn=dict(type="mmengine.default_collate"),
    sampler=dict(type="xtra_toolkit.GlobalBatchSampler"),
    dataset=dict(
        type="xtra_toolkit.Seeded",
        dataset="mmpretrain.FashionMNIST",
        expects="the four idx files of Fashion-MNIST, unpacked, train-images-idx3-ubyte and so on",
        data_root="data/fashion-mnist",
        split="train",
        download=False,
        pipeline=pipeline,
    ),
)

# one epoch; `train_dataloader.dataset.indices` says how many images it has
train_cfg = dict(type="xtra_toolkit.GlobalBatchLoop", max_epochs=1, global_batch=64)
optim_wrapper = dict(optimizer=dict(lr=2e-3))
param_scheduler = [
    dict(type="mmengine.LinearLR", start_factor=0.1, end=0.1, convert_to_iter_based=True),
    dict(type="mmengine.CosineAnnealingLR", begin=0.1, end=1, convert_to_iter_based=True),
]
default_hooks = dict(logger=dict(interval=50), checkpoint=dict(interval=1, max_keep_ckpts=1))
