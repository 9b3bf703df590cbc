"""AIM with a prefix drawn for each image, beside cifar10_aim.py.

153 MFLOP an image forward. Nothing was measured with it yet.
"""

_base_ = ["cifar10_aim.py"]

model = dict(mask=dict(type="xtra_toolkit.PrefixCausal"))
