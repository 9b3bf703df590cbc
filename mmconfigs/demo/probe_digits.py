"""Linear probe of a frozen digits encoder with MMPretrain's ImageClassifier.

    mim train mmpretrain mmconfigs/demo/probe_digits.py --cfg-options \
        model.backbone.init_cfg.checkpoint=work_dirs/xtra_digits/epoch_20.pth

The probe is MMPretrain's avg_featmap (the mean after the final norm, normalised again), a BatchNorm
without parameters and a linear layer. The encoder's sizes and mask are read from the checkpoint.
"""

_base_ = ["xtra_digits.py"]

model = dict(
    _delete_=True,
    type="xtra_toolkit.ImageClassifier",
    data_preprocessor=dict(
        type="mmpretrain.ClsDataPreprocessor", mean=[77.8], std=[95.9], to_rgb=False
    ),
    backbone=dict(
        type="xtra_toolkit.MaskedViT",
        out_type="avg_featmap",
        frozen_stages="all",
        init_cfg=dict(type="Pretrained", checkpoint="", prefix="backbone."),
    ),
    neck=dict(type="mmpretrain.ClsBatchNormNeck"),
    head=dict(type="mmpretrain.LinearClsHead", num_classes=10),
)

val_evaluator = dict(_delete_=True, type="mmpretrain.Accuracy", topk=(1,))

train_dataloader = dict(batch_size=256)
train_cfg = dict(max_epochs=25, global_batch=256, val_interval=25)
optim_wrapper = dict(optimizer=dict(lr=5e-2, weight_decay=0.0))
param_scheduler = [dict(type="mmengine.CosineAnnealingLR", end=25, convert_to_iter_based=True)]
default_hooks = dict(checkpoint=dict(interval=25))
