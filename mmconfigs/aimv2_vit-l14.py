"""The image part of AIMv2-L/14: Multimodal Autoregressive Pre-training of Large Vision Encoders.

Paper: arXiv 2411.14402. Recipe: apple/ml-l3m at e6376a3, configs/aimv2/001_aimv2_hfdata.yaml.

    mim train mmpretrain mmconfigs/aimv2_vit-l14.py

The encoder attends in full within the prefix, the decoder is causal everywhere. AIMv2 also predicts
the caption of the image after the image, by the same decoder, and weighs the loss of the pixels by
0.4; captions are left out here. Its linear head has no bias. Cost: 1,250,000 steps in the original,
on pairs of image and text; for other data, set max_epochs and both ends of the schedule. Nothing
was measured with it yet.
"""

_base_ = ["_base_/runtime.py", "_base_/images_256.py", "_base_/xavier.py"]

# SwiGLU of two thirds of 4 times the width, rounded up to a multiple of 256
swiglu = dict(feedforward_channels=2816, ffn_type="swiglu")
norm_cfg = dict(type="xtra_toolkit.RMSNorm", eps=1e-5)

model = dict(
    type="xtra_toolkit.MaskTargetPretrainer",
    data_preprocessor=_base_.data_preprocessor,
    mask=dict(
        type="xtra_toolkit.WithDecoderMask",
        mask=dict(type="xtra_toolkit.PrefixCausal"),
        decoder=dict(type="xtra_toolkit.TokenCausal"),
    ),
    target_generator=dict(type="xtra_toolkit.NextToken", normalise=True),
    backbone=dict(
        type="xtra_toolkit.MaskedViT",
        arch=dict(embed_dims=1024, num_layers=24, num_heads=8, feedforward_channels=2816),
        img_size=224,
        patch_size=14,
        bias=False,
        norm_cfg=norm_cfg,
        patch_cfg=dict(norm_cfg=norm_cfg),
        layer_cfgs=dict(ffn_type="swiglu"),
        init_cfg=_base_.xavier,
    ),
    neck=dict(
        type="xtra_toolkit.ViTDecoder",
        width=1024,
        depth=12,
        heads=8,
        positions="none",
        bias=False,
        norm_cfg=norm_cfg,
        layer_cfgs=swiglu,
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
                crop_ratio_range=(0.4, 1.0),
            ),
            dict(type="xtra_toolkit.RandomFlip", prob=0.5),
            dict(type="xtra_toolkit.PackInputs"),
        ]
    )
)

train_cfg = dict(type="xtra_toolkit.GlobalBatchLoop", max_epochs=400, global_batch=4096)

# the original subtracts 1e-4 of the weights in each step, which is 0.1 times the highest rate
optim_wrapper = dict(optimizer=dict(lr=1e-3, weight_decay=0.1))

# the warm-up takes a hundredth of the steps
param_scheduler = [
    dict(type="mmengine.LinearLR", start_factor=1e-3, end=4, convert_to_iter_based=True),
    dict(
        type="mmengine.CosineAnnealingLR",
        begin=4,
        end=400,
        eta_min=1e-5,
        convert_to_iter_based=True,
    ),
]
