"""AIM on the digits, what ``make demo`` pretrains: xtra_digits.py with another mask and target.

    mim train mmpretrain mmconfigs/demo/aim_digits.py

30 epochs, two minutes on two CPU cores. Linear probe with all labels: 91.6 % (one seed, as
``make demo`` prints it); 50 epochs reached 94.6 %.
"""

_base_ = ["xtra_digits.py"]

model = dict(
    mask=dict(_delete_=True, type="xtra_toolkit.TokenCausal"),
    target_generator=dict(type="xtra_toolkit.NextToken"),
)

train_cfg = dict(max_epochs=30, val_interval=15)
param_scheduler = [
    dict(type="mmengine.LinearLR", start_factor=0.1, end=3, convert_to_iter_based=True),
    dict(type="mmengine.CosineAnnealingLR", begin=3, end=30, convert_to_iter_based=True),
]
default_hooks = dict(
    checkpoint=dict(interval=30), online_probe=dict(interval=15), split_loss=dict(interval=200)
)
