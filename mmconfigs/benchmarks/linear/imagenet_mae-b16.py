"""Linear probe of MAE-B/16 on ImageNet-1k, at its 224 px, with its class token.

    mim train mmpretrain mmconfigs/benchmarks/linear/imagenet_mae-b16.py --cfg-options \
        model.backbone.init_cfg.checkpoint=work_dirs/mae_vit-b16/epoch_800.pth

The probe uses the patch tokens, as for the other encoders.
"""

_base_ = ["imagenet.py"]

model = dict(backbone=dict(img_size=224, with_cls_token=True))

train_pipeline = _base_.crop_pipeline
train_pipeline[1]["scale"] = 224
val_pipeline = _base_.val_pipeline
val_pipeline[1]["scale"] = 256
val_pipeline[2]["crop_size"] = 224
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=val_pipeline))
test_dataloader = val_dataloader

work_dir = "work_dirs/linear/imagenet_mae-b16"
