"""AIM with a prefix drawn for each image, beside fashion_aim.py."""

_base_ = ["fashion_aim.py"]

model = dict(mask=dict(type="xtra_toolkit.PrefixCausal"))
