"""AIM without a prefix: cifar10_xtra.py with another mask and another target."""

_base_ = ["cifar10_xtra.py"]

model = dict(
    mask=dict(_delete_=True, type="xtra_toolkit.TokenCausal"),
    target_generator=dict(type="xtra_toolkit.NextToken"),
)
