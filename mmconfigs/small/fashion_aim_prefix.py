"""AIM with a prefix drawn for each image: fashion_aim.py with another mask."""

_base_ = ["fashion_aim.py"]

model = dict(mask=dict(type="xtra_toolkit.PrefixCausal"))
