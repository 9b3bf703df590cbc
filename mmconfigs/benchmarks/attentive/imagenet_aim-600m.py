"""Attentive probe of AIM-600M/14 on ImageNet-1k, at its 224 px; AIM's linear layer has no bias.

    mim train mmpretrain mmconfigs/benchmarks/attentive/imagenet_aim-600m.py --cfg-options \
        model.backbone.init_cfg.checkpoint=aim.pth

The checkpoint is one of mmconfigs/aim_vit-600m-p14.py, or Apple's after xtra convert. Converted
with Apple's head (xtra convert --head aim_head.pth --to classifier), it can be tested without
training: mim test -C classifier.pth.
"""

_base_ = ["imagenet.py"]

model = dict(
    backbone=dict(
        _delete_=True,
        type="xtra_toolkit.MaskedViT",
        arch=dict(embed_dims=1536, num_layers=24, num_heads=12, feedforward_channels=6144),
        img_size=224,
        patch_size=14,
        positions="sincos",
        bias=False,
        patch_cfg=dict(norm_cfg=dict(type="mmengine.LN", eps=1e-6)),
        final_norm=False,
        out_type="featmap",
        out_indices=[-6, -5, -4, -3, -2, -1],
        frozen_stages="all",
        init_cfg=dict(type="Pretrained", checkpoint="", prefix="backbone."),
    ),
    head=dict(probe=dict(num_heads=12, bias=False)),
)

train_pipeline = _base_.train_pipeline
train_pipeline[1]["scale"] = 224
val_pipeline = _base_.val_pipeline
val_pipeline[1]["scale"] = 256
val_pipeline[2]["crop_size"] = 224
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=val_pipeline))
test_dataloader = val_dataloader

work_dir = "work_dirs/attentive/imagenet_aim-600m"
