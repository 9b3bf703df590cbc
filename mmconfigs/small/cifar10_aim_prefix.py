"""AIM with a prefix drawn for each image, beside cifar10_aim.py.

153 MFLOP an image forward. Measured as cifar10_xtra.py was (docs/comparisons/cifar10.md), with two
seeds: linear probe 46.5 %, attentive 48.9 %.
"""

_base_ = ["cifar10_aim.py"]

model = dict(mask=dict(type="xtra_toolkit.PrefixCausal"))
