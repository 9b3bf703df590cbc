"""AIM without a prefix, which is XTRA with blocks of one token, beside tiny_imagenet_xtra.py.

760 MFLOP an image forward. Measured by the command of tiny_imagenet_xtra.py
(docs/comparisons/tiny_imagenet.md), two seeds: linear probe 15.3 %, attentive 18.3 %.
"""

_base_ = ["tiny_imagenet_xtra.py"]

model = dict(
    mask=dict(_delete_=True, type="xtra_toolkit.TokenCausal"),
    target_generator=dict(type="xtra_toolkit.NextToken"),
)
