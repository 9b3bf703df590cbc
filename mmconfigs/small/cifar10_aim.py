"""AIM without a prefix beside cifar10_xtra.py: the mask and the target change, nothing else.

153 MFLOP an image forward. Measured by the command of cifar10_xtra.py
(docs/comparisons/cifar10.md), after 49,984 images, with 5,000 labels and four seeds: linear probe
47.1 %, attentive 49.7 %, fine-tuned 57.1 %.
"""

_base_ = ["cifar10_xtra.py"]

model = dict(
    mask=dict(_delete_=True, type="xtra_toolkit.TokenCausal"),
    target_generator=dict(type="xtra_toolkit.NextToken"),
)
