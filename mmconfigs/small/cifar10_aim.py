"""AIM without a prefix beside cifar10_xtra.py: the mask and the target change, nothing else."""

_base_ = ["cifar10_xtra.py"]

model = dict(
    mask=dict(_delete_=True, type="xtra_toolkit.TokenCausal"),
    target_generator=dict(type="xtra_toolkit.NextToken"),
)
