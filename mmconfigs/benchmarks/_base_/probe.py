"""Settings that the attentive and the linear probe share. See attentive.py for how to use them.

The sizes of the encoder are read from its checkpoint. Images are cropped to 256 px; for an encoder
of another size, change the pipelines as _base_/images.py says.

BatchNorm takes its statistics from train_dataloader.batch_size images, in the original from 1024.
"""

_base_ = ["../../_base_/runtime.py"]

model = dict(
    type="xtra_toolkit.ImageClassifier",
    data_preprocessor=dict(
        type="mmpretrain.ClsDataPreprocessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        to_rgb=True,
    ),
    # sizes and attention mask are read from the checkpoint
    backbone=dict(
        type="xtra_toolkit.MaskedViT",
        final_norm=False,
        out_type="featmap",
        frozen_stages="all",
        init_cfg=dict(type="Pretrained", checkpoint="", prefix="backbone."),
    ),
    head=dict(
        type="xtra_toolkit.ProbeSweep",
        rates=[1e-4, 3e-4, 5e-4, 1e-3, 1.5e-3, 2e-3, 4e-3],
    ),
)

train_cfg = dict(
    type="xtra_toolkit.GlobalBatchLoop", max_epochs=100, global_batch=4096, val_interval=10
)
val_cfg = dict(type="xtra_toolkit.InferenceValLoop")
val_evaluator = dict(type="xtra_toolkit.SweepAccuracy")

# the learning rates are model.head.rates; optimizer.lr has no effect on the probes
optim_wrapper = dict(
    type="xtra_toolkit.SweepOptimWrapper",
    constructor="xtra_toolkit.SweepOptimWrapperConstructor",
    clip_grad=dict(max_norm=3.0),
)
# each rate warms up from a tenth of its value, as in the original, and decays to 1e-5
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
# no StopOnNonFiniteLoss: a probe whose rate diverges does not affect the others
custom_hooks = [dict(type="xtra_toolkit.SafeResume")]
