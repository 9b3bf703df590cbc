"""SimMIM ViT-B/16 on ImageNet-1k: predict the raw pixels of hidden squares of 32 px.

Paper: arXiv 2111.09886; code microsoft/SimMIM (configs/vit_base__800ep).

    mim train mmpretrain mmconfigs/simmim_vit-b16.py

The original's ViT has shared relative position biases; this one has learned positions, as in
lightly. Cost: 800 epochs of 1.28 M images at batch 2048, 500,000 steps. Expected (reported by the
paper, not reproduced here): 83.8 by fine-tuning on ImageNet-1k.
"""

_base_ = ["_base_/runtime.py", "_base_/images_256.py"]

model = dict(
    type="xtra_toolkit.MaskTargetPretrainer",
    data_preprocessor=_base_.data_preprocessor,
    mask=dict(type="xtra_toolkit.RandomShown", mask_ratio=0.6, block_size=2),
    target_generator=dict(type="xtra_toolkit.MaskedPatches", normalise=False),
    backbone=dict(
        type="xtra_toolkit.MaskedViT",
        arch="base",
        img_size=224,
        patch_size=16,
        with_cls_token=True,
        mask_tokens=True,
        layer_scale_init_value=0.1,
        drop_path_rate=0.1,
    ),
    neck=None,
    head=dict(type="xtra_toolkit.PredictionHead", loss="l1"),
)

train_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type="xtra_toolkit.ReadImage"),
            dict(
                type="xtra_toolkit.RandomResizedCrop",
                scale=224,
                crop_ratio_range=(0.67, 1.0),
            ),
            dict(type="xtra_toolkit.RandomFlip", prob=0.5),
            dict(type="xtra_toolkit.PackInputs"),
        ]
    )
)

train_cfg = dict(type="xtra_toolkit.GlobalBatchLoop", max_epochs=800, global_batch=2048)

# 1e-4 for each 512 images of the batch
optim_wrapper = dict(
    optimizer=dict(lr=4e-4, betas=(0.9, 0.999)),
    clip_grad=dict(max_norm=5.0),
    paramwise_cfg=dict(custom_keys=dict(mask_token=dict(decay_mult=0.0))),
)

param_scheduler = [
    dict(type="mmengine.LinearLR", start_factor=1.25e-3, end=20, convert_to_iter_based=True),
    dict(type="mmengine.MultiStepLR", milestones=[700], gamma=0.1),
]
