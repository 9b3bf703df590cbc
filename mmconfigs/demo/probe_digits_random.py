"""The floor of probe_digits.py: the same probe on an encoder that was never trained."""

_base_ = ["probe_digits.py"]

model = dict(
    backbone=dict(mask=dict(type="xtra_toolkit.BlockCausal", block_size=2), init_cfg=_base_.xavier)
)
