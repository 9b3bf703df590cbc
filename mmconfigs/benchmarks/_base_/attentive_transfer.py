"""Attentive probe of XTRA for data sets other than ImageNet and iNaturalist, without warm-up.

Source: config/eval/xtra_h of the original at e711fb5: a cosine over 100 epochs, batch 512, 9 rates.
With a warm-up of 0 epochs, the original's scheduler, LinearWarmupCosineAnnealingLR of pl_bolts,
starts at ``warmup_start_lr``, a tenth of the rate that its files name, and decays from there to
1e-5, so no probe is ever trained at the named rate. The same schedule is the default here. The
probe that is reported as ``top1_lr_1e-3`` is that of the original's lr_1e-3.yaml, and its learning
rate starts at 1e-4. To start at the named rates instead, add:

    --cfg-options param_scheduler.0.factor=1
"""

_base_ = ["attentive.py"]

model = dict(head=dict(rates=[1e-4, 3e-4, 5e-4, 1e-3, 1.5e-3, 2e-3, 4e-3, 8e-3, 1e-2]))
train_cfg = dict(global_batch=512)
param_scheduler = [
    # the end lies beyond the run, because MMEngine restores the rates in the last epoch
    dict(type="mmengine.ConstantLR", factor=0.1, end=10**9),
    dict(type="mmengine.CosineAnnealingLR", eta_min=1e-5, end=100, convert_to_iter_based=True),
]
