"""Linear probe of a frozen ViT-B/16, as XTRA's (arXiv 2411.15648), all rates in one run.

The mean over the patch tokens of the last layer without the final norm, BatchNorm without
parameters, linear; 7 learning rates, no weight decay. Of the original's
config/eval/xtra_b/in1k_lin at e711fb5; all else, and how a data set plugs in, as attentive.py.
XTRA-H/14's linear probe has weight decay and more augmentation: linear/imagenet_xtra-h14.py.
"""

_base_ = ["probe.py"]

model = dict(
    neck=dict(type="mmpretrain.GlobalAveragePooling"),
    # torch's own initialisation of linear layers, as the original
    head=dict(probe=dict(type="mmpretrain.LinearClsHead", init_cfg=None)),
)

optim_wrapper = dict(optimizer=dict(weight_decay=0.0))
