"""Pretrain with my_mask on scikit-learn's handwritten digits, to see whether the loss falls.

    mim train mmpretrain config.py

The images have 8×8 px, and a token is one pixel. It takes seconds on a CPU.
"""

default_scope = "mmpretrain"

model = dict(
    type="xtra_toolkit.MaskTargetPretrainer",
    data_preprocessor=dict(
        type="mmpretrain.SelfSupDataPreprocessor", mean=[77.8], std=[95.9], to_rgb=False
    ),
    mask=dict(type="xtra_toolkit.MyMask", width=2),
    target_generator=dict(type="xtra_toolkit.NextBlock", normalise=False),
    backbone=dict(
        type="xtra_toolkit.MaskedViT",
        arch=dict(embed_dims=64, num_layers=4, num_heads=4, feedforward_channels=256),
        img_size=8,
        patch_size=1,
        in_channels=1,
    ),
    neck=dict(type="xtra_toolkit.ViTDecoder", width=48, depth=2, heads=4),
    head=dict(type="xtra_toolkit.PredictionHead", hidden=256, loss="mse"),
)

train_dataloader = dict(
    batch_size=64,
    num_workers=0,
    persistent_workers=False,
    collate_fn=dict(type="mmengine.default_collate"),
    sampler=dict(type="xtra_toolkit.GlobalBatchSampler"),
    dataset=dict(
        type="xtra_toolkit.Digits", split="train", pipeline=[dict(type="mmpretrain.PackInputs")]
    ),
)
train_cfg = dict(type="xtra_toolkit.GlobalBatchLoop", max_epochs=5, global_batch=64)

optim_wrapper = dict(
    type="xtra_toolkit.AutocastOptimWrapper",
    optimizer=dict(type="torch.optim.AdamW", lr=2e-3, betas=(0.9, 0.95), weight_decay=0.05),
    clip_grad=dict(max_norm=1.0),
    paramwise_cfg=dict(flat_decay_mult=0.0),
)

default_hooks = dict(
    logger=dict(type="mmengine.LoggerHook", interval=10),
    checkpoint=dict(type="mmengine.CheckpointHook", interval=5),
)
custom_hooks = [
    dict(type="xtra_toolkit.SafeResume"),
    dict(type="xtra_toolkit.StopOnNonFiniteLoss"),
]
randomness = dict(seed=0)
