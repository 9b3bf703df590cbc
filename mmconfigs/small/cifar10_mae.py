"""MAE with the encoder of cifar10_xtra.py; projection and head are single linear layers."""

_base_ = ["cifar10_xtra.py"]

model = dict(
    mask=dict(_delete_=True, type="xtra_toolkit.RandomShown", mask_ratio=0.75),
    target_generator=dict(type="xtra_toolkit.MaskedPatches"),
    neck=dict(projection=None),
    head=dict(hidden=None),
)
