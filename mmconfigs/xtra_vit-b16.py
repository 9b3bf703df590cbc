"""XTRA ViT-B/16 on ImageNet-1k: Sample- and Parameter-Efficient Auto-Regressive Image Models.

Paper: arXiv 2411.15648 (CVPR 2025); code elad-amrani/xtra at e711fb5. Warm-up, epochs and drop
path are those of the released checkpoint, not of the released yaml.

    mim train mmpretrain mmconfigs/xtra_vit-b16.py

Own images: --cfg-options train_dataloader.dataset.data_root=/path train_cfg.global_batch=256
train_dataloader.batch_size=32. Cost: 800 epochs of 1.28 M images at batch 2048, 500,000 steps.
Expected (the paper's, not reproduced here): 70.2 linear, 76.8 attentive on ImageNet-1k.
"""

_base_ = ["_base_/runtime.py", "_base_/images_256.py"]

model = dict(
    type="xtra_toolkit.MaskTargetPretrainer",
    data_preprocessor=_base_.data_preprocessor,
    mask=dict(type="xtra_toolkit.BlockCausal", block_size=4),
    target_generator=dict(type="xtra_toolkit.NextBlock", normalise=True),
    backbone=dict(
        type="xtra_toolkit.MaskedViT", arch="base", img_size=256, patch_size=16, drop_path_rate=0.1
    ),
    neck=dict(type="xtra_toolkit.ViTDecoder", projection=4096, width=768, depth=8, heads=6),
    head=dict(type="xtra_toolkit.RegressionHead", hidden=6144, loss="mse"),
)

train_cfg = dict(type="xtra_toolkit.GlobalBatchLoop", max_epochs=800, global_batch=2048)

param_scheduler = [
    dict(type="mmengine.LinearLR", start_factor=0.1, end=15, convert_to_iter_based=True),
    dict(
        type="mmengine.CosineAnnealingLR",
        eta_min=1e-6,
        begin=15,
        end=800,
        convert_to_iter_based=True,
    ),
]
