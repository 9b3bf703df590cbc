"""AIM on the digits, what ``make demo`` pretrains: xtra_digits.py with another mask and target.

    mim train mmpretrain mmconfigs/demo/aim_digits.py

50 epochs, two to five minutes on a CPU. Linear probe with all labels: 94.6 % (one seed); XTRA's
blocks of 2×2 tokens reached 83.0 % after 20 epochs.
"""

_base_ = ["xtra_digits.py"]

model = dict(
    mask=dict(_delete_=True, type="xtra_toolkit.TokenCausal"),
    target_generator=dict(type="xtra_toolkit.NextToken"),
)

train_cfg = dict(max_epochs=50, val_interval=25)
param_scheduler = [
    dict(type="mmengine.LinearLR", start_factor=0.1, end=5, convert_to_iter_based=True),
    dict(type="mmengine.CosineAnnealingLR", begin=5, end=50, convert_to_iter_based=True),
]
default_hooks = dict(
    checkpoint=dict(interval=50), online_probe=dict(interval=25), split_loss=dict(interval=200)
)
