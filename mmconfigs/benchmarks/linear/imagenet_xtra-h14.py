"""Linear probe of XTRA-H/14 on ImageNet-1k, at its 224 px.

    mim train mmpretrain mmconfigs/benchmarks/linear/imagenet_xtra-h14.py --cfg-options \
        model.backbone.init_cfg.checkpoint=work_dirs/xtra_vit-h14/epoch_100.pth

Source: config/eval/xtra_h/in1k_linear of the original at e711fb5. It differs from XTRA-B's linear
probe (imagenet.py) not only in the encoder: weight decay is 0.1 instead of 0, and the images are
augmented as for the attentive probe, by RandAugment and random erasing.
"""

_base_ = ["imagenet.py"]

model = dict(backbone=dict(arch="huge", img_size=224, patch_size=14))
optim_wrapper = dict(optimizer=dict(weight_decay=0.1))

train_pipeline = _base_.train_pipeline
train_pipeline[1]["scale"] = 224
val_pipeline = _base_.val_pipeline
val_pipeline[1]["scale"] = 256
val_pipeline[2]["crop_size"] = 224
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=val_pipeline))
test_dataloader = val_dataloader

work_dir = "work_dirs/linear/imagenet_xtra-h14"
