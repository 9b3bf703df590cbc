"""MAE with the encoder of fashion_xtra.py; projection and head are single linear layers."""

_base_ = ["fashion_xtra.py"]

model = dict(
    mask=dict(_delete_=True, type="xtra_toolkit.RandomShown"),
    target_generator=dict(type="xtra_toolkit.MaskedPatches"),
    neck=dict(projection=None),
    head=dict(hidden=None),
)
