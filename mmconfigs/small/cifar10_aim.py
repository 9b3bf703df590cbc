"""AIM without a prefix beside cifar10_xtra.py: the mask and the target change, nothing else.

153 MFLOP an image forward. Measured (docs/compare.md), one seed, after 49,984 images: linear probe
45.9 %, attentive 47.6 %.
"""

_base_ = ["cifar10_xtra.py"]

model = dict(
    mask=dict(_delete_=True, type="xtra_toolkit.TokenCausal"),
    target_generator=dict(type="xtra_toolkit.NextToken"),
)
