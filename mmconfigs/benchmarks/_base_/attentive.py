"""Attentive probe of a frozen ViT-B/16, as XTRA's (arXiv 2411.15648), all rates in one run.

The mean of the last 6 layers' outputs without the final norm, BatchNorm without parameters, one
learned query with 16 heads, linear; 7 learning rates. Of the original's config/eval/xtra_b/
in1k_att at e711fb5: batch 1024 x 4, 100 epochs, 10 of warm-up, AdamW with decay 0.1, gradients
clipped at 3. For AIM's: model.head.probe.bias=False, and as many heads as the trunk has.

A data set plugs in like this (mmconfigs/benchmarks/attentive/imagenet.py):

    _base_ = ["../_base_/attentive.py", "../_base_/data/imagenet.py"]
    model = dict(head=dict(num_classes=_base_.num_classes))

where the data config defines train_dataloader, val_dataloader and num_classes, and nothing that
stands here (val_evaluator and val_cfg do). It may change train_cfg.global_batch, model.head.rates
and param_scheduler in the same way.

    mim train mmpretrain mmconfigs/benchmarks/attentive/imagenet.py --cfg-options \
        model.backbone.init_cfg.checkpoint=epoch_800.pth

All rates are reported, accuracy/top1 is the best and accuracy/best_lr its rate. To predict with
that probe: model.head.predict_rate=1e-3. Another mask than the encoder was trained with:
model.backbone.change_mask=True model.backbone.mask.type=xtra_toolkit.Bidirectional.
"""

_base_ = ["probe.py"]

model = dict(
    backbone=dict(out_indices=[-6, -5, -4, -3, -2, -1]),
    neck=dict(type="xtra_toolkit.AverageLayers"),
    head=dict(probe=dict(type="xtra_toolkit.AttentiveProbe", num_heads=16)),
)

optim_wrapper = dict(optimizer=dict(weight_decay=0.1))
