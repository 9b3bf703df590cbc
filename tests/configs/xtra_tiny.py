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
