"""The control of cifar10_xtra_lowpass.py: predict only waves shorter than 8 pixels."""

_base_ = ["cifar10_xtra_lowpass.py"]

model = dict(target_generator=dict(type="xtra_toolkit.HighPass"))
