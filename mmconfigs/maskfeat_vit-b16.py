"""MaskFeat ViT-B/16 on ImageNet-1k: predict histograms of oriented gradients of hidden patches.

Paper: arXiv 2112.09133. The recipe is MMPretrain's of 300 epochs.

    mim train mmpretrain mmconfigs/maskfeat_vit-b16.py

Cost: 300 epochs of 1.28 M images at batch 2048, 188,000 steps. Expected (reported by the paper
after 1600 epochs, not reproduced here): 84.0 by fine-tuning on ImageNet-1k.
"""

_base_ = ["_base_/runtime.py", "_base_/images_256.py"]

# all Linear and convolutional layers alike
normal = [
    dict(type="mmengine.TruncNormal", layer=["Linear", "Conv2d"], std=0.02, bias=0.0),
    dict(type="mmengine.Constant", layer="LayerNorm", val=1.0, bias=0.0),
]

model = dict(
    type="xtra_toolkit.MaskTargetPretrainer",
    data_preprocessor=_base_.data_preprocessor,
    mask=dict(type="xtra_toolkit.HiddenBlocks", num_hidden=78, min_block=15),
    target_generator=dict(type="xtra_toolkit.HOG"),
    backbone=dict(
        type="xtra_toolkit.MaskedViT",
        arch="base",
        img_size=224,
        patch_size=16,
        with_cls_token=True,
        mask_tokens=True,
        init_cfg=normal,
    ),
    neck=None,
    head=dict(type="xtra_toolkit.PredictionHead", loss="mse", init_cfg=normal),
)

train_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type="xtra_toolkit.ReadImage"),
            dict(
                type="xtra_toolkit.RandomResizedCrop",
                scale=224,
                crop_ratio_range=(0.5, 1.0),
            ),
            dict(type="xtra_toolkit.RandomFlip", prob=0.5),
            dict(type="xtra_toolkit.PackInputs"),
        ]
    )
)

train_cfg = dict(type="xtra_toolkit.GlobalBatchLoop", max_epochs=300, global_batch=2048)

optim_wrapper = dict(
    optimizer=dict(lr=1.6e-3, betas=(0.9, 0.999)),
    clip_grad=dict(max_norm=0.02),
    paramwise_cfg=dict(custom_keys=dict(mask_token=dict(decay_mult=0.0))),
)

param_scheduler = [
    dict(type="mmengine.LinearLR", start_factor=1e-6, end=30, convert_to_iter_based=True),
    dict(
        type="mmengine.CosineAnnealingLR",
        begin=30,
        end=300,
        eta_min=1e-6,
        convert_to_iter_based=True,
    ),
]
