"""MAE beside xtra.py: the same encoder; MAE's projection and head are single linear layers."""

_base_ = ["xtra.py"]

model = dict(
    mask=dict(_delete_=True, type="xtra_toolkit.RandomShown"),
    target_generator=dict(type="xtra_toolkit.MaskedPatches"),
    neck=dict(projection=None),
    head=dict(hidden=None),
)
