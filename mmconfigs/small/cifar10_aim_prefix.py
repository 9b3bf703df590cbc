"""AIM with a prefix drawn for each image, beside cifar10_aim.py."""

_base_ = ["cifar10_aim.py"]

model = dict(mask=dict(type="xtra_toolkit.PrefixCausal"))
