"""MAE ViT-B/16 on ImageNet-1k: Masked Autoencoders Are Scalable Vision Learners.

Paper: arXiv 2111.06377; code facebookresearch/mae at efb2a80 (PRETRAIN.md).

    mim train mmpretrain mmconfigs/mae_vit-b16.py

The precision is bfloat16; the original's is float16. Cost: 800 epochs of 1.28 M images at batch
4096, 250,000 steps. Expected (reported by the paper after 1600 epochs, not reproduced here): 68.0
by linear probe on ImageNet-1k.
"""

_base_ = ["_base_/runtime.py", "_base_/images_256.py", "_base_/xavier.py"]

model = dict(
    type="xtra_toolkit.MaskTargetPretrainer",
    data_preprocessor=_base_.data_preprocessor,
    mask=dict(type="xtra_toolkit.RandomShown", mask_ratio=0.75),
    target_generator=dict(type="xtra_toolkit.MaskedPatches", normalise=True),
    backbone=dict(
        type="xtra_toolkit.MaskedViT",
        arch="base",
        img_size=224,
        patch_size=16,
        with_cls_token=True,
        positions="sincos",
        init_cfg=_base_.xavier,
    ),
    neck=dict(
        type="xtra_toolkit.ViTDecoder",
        width=512,
        depth=8,
        heads=16,
        positions="sincos",
        init_cfg=_base_.xavier,
    ),
    head=dict(type="xtra_toolkit.PredictionHead", loss="mse", init_cfg=_base_.xavier),
)

train_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type="xtra_toolkit.ReadImage"),
            dict(
                type="xtra_toolkit.RandomResizedCrop",
                scale=224,
                crop_ratio_range=(0.2, 1.0),
            ),
            dict(type="xtra_toolkit.RandomFlip", prob=0.5),
            dict(type="xtra_toolkit.PackInputs"),
        ]
    )
)

train_cfg = dict(type="xtra_toolkit.GlobalBatchLoop", max_epochs=800, global_batch=4096)

# 1.5e-4 for each 256 images of the batch
optim_wrapper = dict(optimizer=dict(lr=2.4e-3), clip_grad=None)

param_scheduler = [
    dict(type="mmengine.LinearLR", start_factor=1e-6, end=40, convert_to_iter_based=True),
    dict(type="mmengine.CosineAnnealingLR", begin=40, end=800, convert_to_iter_based=True),
]
