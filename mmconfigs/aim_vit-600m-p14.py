"""AIM-600M/14: Scalable Pre-training of Large Autoregressive Image Models (arXiv 2401.08541).

Recipe: apple/ml-l3m at e6376a3, configs/aimv1/001_aim_v1_600M.yaml; trunk: apple/ml-aim at bd9e068.

    mim train mmpretrain mmconfigs/aim_vit-600m-p14.py

The trunk has 681 M parameters; the paper's tables call it 600M. Cost: 125,000 steps of 4096
images, which are the 400 epochs below on ImageNet-1k (312 steps each). Apple trained on DFN-2B+ (2
billion images). For other data, set max_epochs and both ends of the schedule so that they make
125,000 steps. For activation checkpointing, as in the original, set model.with_cp=True. Expected on
ImageNet-1k, by attentive probe: 78.5 from the last six layers, and 79.4 from the best six (Apple's
README; pretrained on DFN-2B+). The XTRA paper reports 73.5 for AIM-0.6B, without the data. None of
them was reproduced here.
"""

_base_ = ["_base_/runtime.py", "_base_/images_256.py", "_base_/xavier.py"]

model = dict(
    type="xtra_toolkit.MaskTargetPretrainer",
    data_preprocessor=_base_.data_preprocessor,
    mask=dict(type="xtra_toolkit.PrefixCausal"),
    target_generator=dict(type="xtra_toolkit.NextToken", normalise=True),
    backbone=dict(
        type="xtra_toolkit.MaskedViT",
        arch=dict(embed_dims=1536, num_layers=24, num_heads=12, feedforward_channels=6144),
        img_size=224,
        patch_size=14,
        positions="sincos",
        bias=False,
        norm_cfg=dict(type="mmengine.LN", eps=1e-5),
        patch_cfg=dict(norm_cfg=dict(type="mmengine.LN", eps=1e-5)),
        init_cfg=_base_.xavier,
    ),
    # AIM's head: 12 layers without attention; the positions are added again
    neck=dict(
        type="xtra_toolkit.ViTDecoder",
        width=2048,
        depth=12,
        heads=None,
        positions="sincos",
        bias=False,
        norm_eps=1e-5,
        init_cfg=_base_.xavier,
    ),
    # the loss is the mean over all targets of the batch that lie outside the prefix
    head=dict(
        type="xtra_toolkit.PredictionHead", loss="mse", reduction="batch", init_cfg=_base_.xavier
    ),
)

train_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type="xtra_toolkit.ReadImage"),
            dict(
                type="xtra_toolkit.RandomResizedCrop",
                scale=224,
                crop_ratio_range=(0.4, 1.0),
            ),
            dict(type="xtra_toolkit.RandomFlip", prob=0.5),
            # torchvision's, because MMCV's ColorJitter overflows with NumPy 2 when hue changes
            dict(type="mmpretrain.NumpyToPIL", to_rgb=True),
            dict(
                type="mmengine.RandomApply",
                transforms=[
                    dict(
                        type="mmpretrain.torchvision/ColorJitter",
                        brightness=0.4,
                        contrast=0.4,
                        saturation=0.2,
                        hue=0.1,
                    )
                ],
                prob=0.8,
            ),
            dict(type="mmpretrain.PILToNumpy", to_bgr=True),
            dict(type="xtra_toolkit.PackInputs"),
        ]
    )
)

train_cfg = dict(type="xtra_toolkit.GlobalBatchLoop", max_epochs=400, global_batch=4096)

param_scheduler = [
    dict(type="mmengine.LinearLR", start_factor=1e-3, end=10, convert_to_iter_based=True),
    dict(type="mmengine.CosineAnnealingLR", begin=10, end=400, convert_to_iter_based=True),
]
