"""AIM beside xtra_vit-ti16.py: the mask and the target change, nothing else.

    mim train mmpretrain mmconfigs/aim_vit-ti16.py

Cost: 5.5 M parameters in the encoder, 11.0 M in training; 6.5 GFLOP an image
forward, 2.5 EFLOP for 100 epochs of ImageNet-1k. Nothing was measured with it yet.
"""

_base_ = ["xtra_vit-ti16.py"]

model = dict(
    mask=dict(_delete_=True, type="xtra_toolkit.TokenCausal"),
    target_generator=dict(type="xtra_toolkit.NextToken"),
)
