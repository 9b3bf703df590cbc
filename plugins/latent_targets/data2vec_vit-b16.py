"""data2vec ViT-B/16 on ImageNet-1k: predict the mean of a teacher's last layers at hidden patches.

Paper: arXiv 2202.03555; code facebookresearch/fairseq (examples/data2vec). The student holds mask
tokens, as published.

    pip install ./plugins/latent_targets
    mim train mmpretrain plugins/latent_targets/data2vec_vit-b16.py

The original has relative position biases in every layer; this one has learned positions. Cost: 800
epochs of 1.28 M images at batch 2048, 500,000 steps, each with a pass of the teacher. Expected
(reported by the paper, not reproduced here): 84.2 by fine-tuning on ImageNet-1k.
"""

_base_ = ["../../mmconfigs/maskfeat_vit-b16.py"]

custom_imports = dict(imports=["xtra_toolkit", "latent_targets"])

model = dict(
    mask=dict(num_hidden=120, min_block=16),
    target_generator=dict(_delete_=True, type="xtra_toolkit.LatentPatches", layers=6),
    backbone=dict(drop_path_rate=0.25, layer_scale_init_value=1e-4),
    head=dict(loss=dict(_delete_=True, type="smooth_l1", beta=2.0)),
)

custom_hooks = [
    dict(type="xtra_toolkit.SafeResume"),
    dict(type="xtra_toolkit.StopOnNonFiniteLoss"),
    dict(type="xtra_toolkit.UpdateTeacher", begin=0.9998, end=0.9998),
]

train_cfg = dict(max_epochs=800)

optim_wrapper = dict(optimizer=dict(lr=2e-3), clip_grad=dict(max_norm=3.0))

param_scheduler = [
    dict(type="mmengine.LinearLR", start_factor=1e-6, end=40, convert_to_iter_based=True),
    dict(type="mmengine.CosineAnnealingLR", begin=40, end=800, convert_to_iter_based=True),
]
