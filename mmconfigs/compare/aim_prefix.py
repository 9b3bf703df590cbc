"""AIM with a prefix drawn for each image, beside aim.py."""

_base_ = ["aim.py"]

model = dict(mask=dict(type="xtra_toolkit.PrefixCausal"))
