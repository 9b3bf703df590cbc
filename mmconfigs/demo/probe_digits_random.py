"""The floor of probe_digits.py: the same probe on an encoder that was never trained."""

_base_ = ["probe_digits.py"]

model = dict(
    backbone=dict(
        mask=dict(type="xtra_toolkit.BlockCausal", block_size=2),
        arch=dict(embed_dims=64, num_layers=4, num_heads=4, feedforward_channels=256),
        img_size=8,
        patch_size=1,
        in_channels=1,
        init_cfg=_base_.xavier,
    )
)
