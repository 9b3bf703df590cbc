"""NEPA ViT-B/14 on ImageNet-1k: predict the encoder's own embedding of the next patch.

Paper: arXiv 2512.16922; code SihanXU/nepa at 15ea494 (scripts/pretrain/nepa_b.sh).

    mim train mmpretrain mmconfigs/nepa_vit-b14.py

The output at a patch is compared with the embedding of the next patch by the negative cosine; the
class token predicts the first patch. There is no decoder and no layer in the head. Left out: the
random scale of rotary positions, the average of the weights. Cost: 1600 epochs of 1.28 M images at
batch 4096, 500,000 steps. Expected (reported by the paper, not reproduced here): 83.8 by
fine-tuning on ImageNet-1k.
"""

_base_ = ["_base_/runtime.py", "_base_/images_256.py"]

# all Linear and convolutional layers alike
normal = [
    dict(type="mmengine.TruncNormal", layer=["Linear", "Conv2d"], std=0.02, bias=0.0),
    dict(type="mmengine.Constant", layer="LayerNorm", val=1.0, bias=0.0),
]

model = dict(
    type="xtra_toolkit.MaskTargetPretrainer",
    data_preprocessor=dict(
        type="mmpretrain.SelfSupDataPreprocessor", mean=[127.5] * 3, std=[127.5] * 3, to_rgb=True
    ),
    mask=dict(type="xtra_toolkit.TokenCausal"),
    target_generator=dict(type="xtra_toolkit.NextEmbedding"),
    backbone=dict(
        type="xtra_toolkit.MaskedViT",
        arch="deit-base",
        img_size=224,
        patch_size=14,
        with_cls_token=True,
        positions="none",
        rope="dinov3",
        layer_scale_init_value=1e-5,
        layer_cfgs=dict(qk_norm=True),
        norm_cfg=dict(type="mmengine.LN", eps=1e-12),
        init_cfg=normal,
    ),
    neck=None,
    head=dict(type="xtra_toolkit.IdentityHead", loss="negative_cosine"),
)

train_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type="xtra_toolkit.ReadImage"),
            dict(
                type="xtra_toolkit.RandomResizedCrop",
                scale=224,
                crop_ratio_range=(0.08, 1.0),
            ),
            dict(type="xtra_toolkit.RandomFlip", prob=0.5),
            dict(type="xtra_toolkit.PackInputs"),
        ]
    )
)

train_cfg = dict(type="xtra_toolkit.GlobalBatchLoop", max_epochs=1600, global_batch=4096)

# 3e-4 for each 256 images of the batch; the norms of queries and keys keep the weights 1 and 0
fixed = dict(lr_mult=0.0, decay_mult=0.0)
optim_wrapper = dict(
    optimizer=dict(lr=4.8e-3),
    paramwise_cfg=dict(custom_keys={"attn.q_norm": fixed, "attn.k_norm": fixed}),
)

param_scheduler = [
    dict(type="mmengine.LinearLR", start_factor=1e-6, end=40, convert_to_iter_based=True),
    dict(type="mmengine.CosineAnnealingLR", begin=40, end=1600, convert_to_iter_based=True),
]
