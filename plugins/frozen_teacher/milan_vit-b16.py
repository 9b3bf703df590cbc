"""MILAN ViT-B/16 on ImageNet-1k: predict CLIP's features of all tokens, by mask tokens as prompts.

Paper: arXiv 2208.06049. The recipe is MMPretrain's MILAN.

    pip install ./plugins/frozen_teacher
    mim train mmpretrain plugins/frozen_teacher/milan_vit-b16.py

The visible patches are drawn by the attention of CLIP's class token. The decoder computes the mask
tokens alone. Cost: 400 epochs of 1.28 M images at batch 4096, and the teacher runs twice for each
image: for the mask and for the features. Nothing was measured with it yet.
"""

_base_ = ["eva_vit-b16.py"]

model = dict(
    mask=dict(_delete_=True, type="xtra_toolkit.AttentionShown", mask_ratio=0.75),
    target_generator=dict(everywhere=True),
    neck=dict(type="xtra_toolkit.PromptDecoder"),
)
