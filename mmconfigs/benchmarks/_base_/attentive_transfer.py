"""The attentive probe as XTRA uses it beyond ImageNet and iNaturalist: no warm-up, more rates.

Of the original's config/eval/xtra_h at e711fb5: 100 epochs of a cosine, batch 512, 9 rates. Its
schedule, pl_bolts' warm-up of 0 epochs, seems to start and so to peak at warmup_start_lr, a tenth
of the rate in the file (read in pl_bolts' code, not run); here a rate is the peak that it says.
"""

_base_ = ["attentive.py"]

model = dict(head=dict(rates=[1e-4, 3e-4, 5e-4, 1e-3, 1.5e-3, 2e-3, 4e-3, 8e-3, 1e-2]))
train_cfg = dict(global_batch=512)
param_scheduler = [
    dict(type="mmengine.CosineAnnealingLR", eta_min=1e-5, end=100, convert_to_iter_based=True)
]
