"""Attentive probe of a frozen encoder as in XTRA (arXiv 2411.15648), all rates in one run.

The probe takes the mean of the last 6 layers' outputs without the final norm, followed by a
BatchNorm without parameters, attention by one learned query with 16 heads, and a linear layer. It
is trained with 7 learning rates. Source: config/eval/xtra_b/in1k_att of the original at e711fb5:
batch 1024 x 4, 100 epochs, 10 of warm-up, AdamW with weight decay 0.1, gradients clipped at 3. For
AIM's probe, set model.head.probe.bias=False and as many heads as the trunk has.

To use it with a data set, write (as in mmconfigs/benchmarks/attentive/imagenet.py):

    _base_ = ["../_base_/attentive.py", "../_base_/data/imagenet.py"]
    model = dict(head=dict(num_classes=_base_.num_classes))

The data config must define train_dataloader, val_dataloader and num_classes, and nothing that is
defined here or in probe.py (such as val_evaluator and val_cfg). The config that combines both may
also change train_cfg.global_batch, model.head.rates and param_scheduler.

    mim train mmpretrain mmconfigs/benchmarks/attentive/imagenet.py --cfg-options \
        model.backbone.init_cfg.checkpoint=epoch_800.pth

The accuracy is reported for all rates; accuracy/top1 is the best one and accuracy/best_lr its rate.
To predict with the probe of one rate, set model.head.predict_rate=1e-3. To use another mask than
the encoder was trained with, set
model.backbone.change_mask=True model.backbone.mask.type=xtra_toolkit.Bidirectional.
"""

_base_ = ["probe.py"]

model = dict(
    backbone=dict(out_indices=[-6, -5, -4, -3, -2, -1]),
    neck=dict(type="xtra_toolkit.AverageLayers"),
    head=dict(probe=dict(type="xtra_toolkit.AttentiveProbe", num_heads=16)),
)

optim_wrapper = dict(optimizer=dict(weight_decay=0.1))
