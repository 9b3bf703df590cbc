"""AIM without a prefix beside cifar10_xtra.py: the mask and the target change, nothing else.

153 MFLOP an image forward. Measured by the command of cifar10_xtra.py (docs/compare.md), after
49,984 images and with 5,000 labels: linear probe 47.1 %, attentive 49.7 % (four seeds), fine-tuned
57.4 % (two seeds).
"""

_base_ = ["cifar10_xtra.py"]

model = dict(
    mask=dict(_delete_=True, type="xtra_toolkit.TokenCausal"),
    target_generator=dict(type="xtra_toolkit.NextToken"),
)
