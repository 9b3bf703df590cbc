"""Linear probe of a frozen encoder as in XTRA (arXiv 2411.15648), all rates in one run.

The probe takes the mean over the patch tokens of the last layer without the final norm, followed by
a BatchNorm without parameters and a linear layer. It is trained with 7 learning rates and no weight
decay. Source: config/eval/xtra_b/in1k_lin of the original at e711fb5. See attentive.py for all
other settings and for how to add a data set. XTRA-H/14's linear probe has weight decay and more
augmentation: linear/imagenet_xtra-h14.py.
"""

_base_ = ["probe.py"]

model = dict(
    neck=dict(type="mmpretrain.GlobalAveragePooling"),
    # torch's initialisation of linear layers, as in the original
    head=dict(probe=dict(type="mmpretrain.LinearClsHead", init_cfg=None)),
)

optim_wrapper = dict(optimizer=dict(weight_decay=0.0))
