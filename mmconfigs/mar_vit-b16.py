"""MAR ViT-B/16 on ImageNet-1k: Autoregressive Image Generation without Vector Quantization.

Paper: arXiv 2406.11838; code LTH14/mar at fe470ac.

    mim train mmpretrain mmconfigs/mar_vit-b16.py

It learns to represent images, and does not generate them: sampling is not part of this package. The
original predicts the latents of a KL autoencoder; this config predicts pixels, which needs no
pretrained part. Hidden patches stand in the encoder as mask tokens, where the original leaves them
out, so a step costs more. Left out: classes, dropout, the average of the weights, and position
embeddings in front of the head. Cost: 800 epochs of 1.28 M images at batch 2048, 500,000 steps.
Nothing was measured with it yet.
"""

_base_ = ["_base_/runtime.py", "_base_/images_256.py", "_base_/xavier.py"]

# pixels from -1 to 1, as the diffusion head expects them
data_preprocessor = dict(
    type="mmpretrain.SelfSupDataPreprocessor",
    mean=[127.5, 127.5, 127.5],
    std=[127.5, 127.5, 127.5],
    to_rgb=True,
)

model = dict(
    type="xtra_toolkit.MaskTargetPretrainer",
    data_preprocessor=data_preprocessor,
    mask=dict(
        type="xtra_toolkit.RandomShown",
        mask_ratio=dict(low=0.7, high=1.0, mean=1.0, std=0.25, per="batch"),
    ),
    target_generator=dict(type="xtra_toolkit.MaskedPatches", normalise=False),
    backbone=dict(
        type="xtra_toolkit.MaskedViT",
        arch="base",
        img_size=256,
        patch_size=16,
        with_cls_token=True,
        mask_tokens=True,
        init_cfg=_base_.xavier,
    ),
    neck=dict(
        type="xtra_toolkit.ViTDecoder", width=768, depth=12, heads=12, init_cfg=_base_.xavier
    ),
    head=dict(type="xtra_toolkit.DiffusionHead", width=1024, depth=6, repeats=4),
)

train_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type="xtra_toolkit.LoadImage"),
            dict(type="mmpretrain.ResizeEdge", scale=256, backend="pillow"),
            dict(type="mmpretrain.CenterCrop", crop_size=256),
            dict(type="xtra_toolkit.RandomFlip", prob=0.5),
            dict(type="xtra_toolkit.PackInputs"),
        ]
    )
)

train_cfg = dict(type="xtra_toolkit.GlobalBatchLoop", max_epochs=800, global_batch=2048)

# 1e-4 for each 256 images of the batch, constant after the warm-up
optim_wrapper = dict(optimizer=dict(lr=8e-4, weight_decay=0.02), clip_grad=dict(max_norm=3.0))

param_scheduler = [
    dict(type="mmengine.LinearLR", start_factor=1e-6, end=100, convert_to_iter_based=True),
]
