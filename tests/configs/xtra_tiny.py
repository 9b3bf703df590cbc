"""The shipped XTRA recipe, narrow and shallow, for tests."""

_base_ = ["../../mmconfigs/xtra_vit-b16.py"]

model = dict(
    backbone=dict(
        arch=dict(_delete_=True, embed_dims=48, num_layers=2, num_heads=3, feedforward_channels=96)
    ),
    neck=dict(projection=32, width=24, depth=1, heads=2),
    head=dict(hidden=32),
)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=1))
# the tests run an epoch or a few
param_scheduler = [
    dict(type="mmengine.LinearLR", start_factor=0.1, end=0.5, convert_to_iter_based=True),
    dict(type="mmengine.CosineAnnealingLR", begin=0.5, end=8, convert_to_iter_based=True),
]
