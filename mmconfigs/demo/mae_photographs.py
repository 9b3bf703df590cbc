"""MAE, to compare with xtra_photographs.py: another mask, another target and a linear head."""

_base_ = ["xtra_photographs.py"]

model = dict(
    mask=dict(_delete_=True, type="xtra_toolkit.RandomShown", mask_ratio=0.75),
    target_generator=dict(type="xtra_toolkit.MaskedPatches"),
    neck=dict(projection=None),
    head=dict(hidden=None),
)
