"""AIM beside xtra_vit-s16.py: the mask and the target change, nothing else.

    mim train mmpretrain mmconfigs/aim_vit-s16.py

Cost: 21.7 M parameters in the encoder, 41.1 M in training; 22.8 GFLOP an image
forward, 8.8 EFLOP for 100 epochs of ImageNet-1k. Nothing was measured with it yet.
"""

_base_ = ["xtra_vit-s16.py"]

model = dict(
    mask=dict(_delete_=True, type="xtra_toolkit.TokenCausal"),
    target_generator=dict(type="xtra_toolkit.NextToken"),
)
