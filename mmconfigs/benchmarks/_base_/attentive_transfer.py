"""The attentive probe as XTRA uses it beyond ImageNet and iNaturalist: no warm-up, more rates.

Of the original's config/eval/xtra_h at e711fb5: 100 epochs of a cosine, batch 512, 9 rates. With a
warm-up of 0 epochs the original's scheduler, pl_bolts' LinearWarmupCosineAnnealingLR, starts at
``warmup_start_lr``, a tenth of the rate that its files name, and falls from there to 1e-5: no probe
is ever trained at the rate of its file. The same schedule is the default here. The probe that is
reported as ``top1_lr_1e-3`` is the one of the original's lr_1e-3.yaml, and its learning rate begins
at 1e-4. To begin at the rates themselves instead:

    --cfg-options param_scheduler.0.factor=1
"""

_base_ = ["attentive.py"]

model = dict(head=dict(rates=[1e-4, 3e-4, 5e-4, 1e-3, 1.5e-3, 2e-3, 4e-3, 8e-3, 1e-2]))
train_cfg = dict(global_batch=512)
param_scheduler = [
    # an end beyond the run: MMEngine's default restores the rates in the last epoch
    dict(type="mmengine.ConstantLR", factor=0.1, end=10**9),
    dict(type="mmengine.CosineAnnealingLR", eta_min=1e-5, end=100, convert_to_iter_based=True),
]
