"""What the attentive and the linear probe share. See attentive.py for how to use it.

Another encoder, XTRA-H/14 for instance: model.backbone.arch=huge model.backbone.frozen_stages=32
model.backbone.img_size=224 model.backbone.patch_size=14 model.head.in_channels=1280.

BatchNorm takes its statistics from train_dataloader.batch_size images; the original from 1024.
"""

_base_ = ["../../_base_/runtime.py"]

model = dict(
    type="mmpretrain.ImageClassifier",
    data_preprocessor=dict(
        type="mmpretrain.ClsDataPreprocessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        to_rgb=True,
    ),
    # its attention mask comes out of the checkpoint
    backbone=dict(
        type="xtra_toolkit.MaskedViT",
        arch="base",
        img_size=256,
        patch_size=16,
        final_norm=False,
        out_type="featmap",
        frozen_stages=12,
        init_cfg=dict(type="Pretrained", checkpoint="", prefix="backbone."),
    ),
    head=dict(
        type="xtra_toolkit.ProbeSweep",
        in_channels=768,
        rates=[1e-4, 3e-4, 5e-4, 1e-3, 1.5e-3, 2e-3, 4e-3],
    ),
)

train_cfg = dict(
    type="xtra_toolkit.GlobalBatchLoop", max_epochs=100, global_batch=4096, val_interval=10
)
val_cfg = dict(type="xtra_toolkit.InferenceValLoop")
val_evaluator = dict(type="xtra_toolkit.SweepAccuracy")

# the rates stand in model.head.rates; optimizer.lr reaches none of the probes
optim_wrapper = dict(
    type="xtra_toolkit.SweepOptimWrapper",
    constructor="xtra_toolkit.SweepOptimWrapperConstructor",
    clip_grad=dict(max_norm=3.0),
)
# every rate starts at a tenth of itself, as the original's files say, and ends at 1e-5
param_scheduler = [
    dict(type="mmengine.LinearLR", start_factor=0.1, end=10, convert_to_iter_based=True),
    dict(
        type="mmengine.CosineAnnealingLR",
        eta_min=1e-5,
        begin=10,
        end=100,
        convert_to_iter_based=True,
    ),
]

default_hooks = dict(checkpoint=dict(max_keep_ckpts=1))
# no StopOnNonFiniteLoss: one rate that diverges does not touch the others
custom_hooks = [dict(type="xtra_toolkit.SafeResume")]
