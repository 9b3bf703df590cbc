"""AIM without a prefix beside fashion_xtra.py: two lines change."""

_base_ = ["fashion_xtra.py"]

model = dict(
    mask=dict(_delete_=True, type="xtra_toolkit.TokenCausal"),
    target_generator=dict(type="xtra_toolkit.NextToken"),
)
