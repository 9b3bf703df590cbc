"""iGPT-S on ImageNet-1k at 32 px: Generative Pretraining from Pixels (ICML 2020).

Code: openai/image-gpt at c6af2eb; training recipe as in the paper's section 3.

    xtra clusters data/imagenet/train data/clusters.npy
    mim train mmpretrain mmconfigs/igpt_s.py

The objective is iGPT's: a start token (the ViT's class token), a token-causal mask, and the
cross-entropy over the colour cluster of the next pixel, for all 1024 pixels. The network is a plain
ViT of the same size. It embeds a pixel by a projection of its three values, whereas the original
looks up its cluster in a table. It has biases, LayerNorm and GELU, whereas the original has no
biases, a norm that does not subtract the mean, and quick-GELU. Cost: 1,000,000 steps of 128 images.
"""

_base_ = ["_base_/runtime.py", "_base_/images_256.py"]

data_preprocessor = dict(
    type="mmpretrain.SelfSupDataPreprocessor", mean=[127.5] * 3, std=[127.5] * 3, to_rgb=True
)

# the patch projection gets the same standard deviation as the positions, 0.02
init_cfg = [
    dict(type="mmengine.TruncNormal", layer=["Linear", "Conv2d"], std=0.02, bias=0.0),
    dict(type="mmengine.Constant", layer="LayerNorm", val=1.0, bias=0.0),
]

model = dict(
    type="xtra_toolkit.MaskTargetPretrainer",
    data_preprocessor=data_preprocessor,
    mask=dict(type="xtra_toolkit.TokenCausal"),
    target_generator=dict(type="xtra_toolkit.NextColour", clusters="data/clusters.npy"),
    backbone=dict(
        type="xtra_toolkit.MaskedViT",
        arch=dict(embed_dims=512, num_layers=24, num_heads=8, feedforward_channels=2048),
        img_size=32,
        patch_size=1,
        with_cls_token=True,
        init_cfg=init_cfg,
    ),
    neck=None,
    head=dict(type="xtra_toolkit.PredictionHead", loss="cross_entropy"),
)

train_dataloader = dict(
    batch_size=128,
    dataset=dict(
        pipeline=[
            dict(type="xtra_toolkit.LoadImage"),
            dict(
                type="mmengine.RandomChoice",
                transforms=[
                    [dict(type="mmpretrain.ResizeEdge", scale=side, backend="pillow")]
                    for side in (256, 288, 320, 352, 384)
                ],
            ),
            dict(type="mmpretrain.RandomCrop", crop_size=224),
            dict(
                type="mmpretrain.Resize", scale=(32, 32), backend="pillow", interpolation="bicubic"
            ),
            dict(type="xtra_toolkit.PackInputs"),
        ]
    ),
)

train_cfg = dict(type="xtra_toolkit.GlobalBatchLoop", max_epochs=100, global_batch=128)

optim_wrapper = dict(optimizer=dict(lr=3e-3, weight_decay=0.0), clip_grad=None)

param_scheduler = [
    dict(type="mmengine.LinearLR", start_factor=1e-3, end=1, convert_to_iter_based=True),
    dict(type="mmengine.CosineAnnealingLR", begin=1, end=100, convert_to_iter_based=True),
]
