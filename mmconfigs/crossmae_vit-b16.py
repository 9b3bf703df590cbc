"""CrossMAE ViT-B/16 on ImageNet-1k: Rethinking Patch Dependence for Masked Autoencoders.

Paper: arXiv 2401.14391; code and recipe: TonyLianLong/CrossMAE at ed0677a (README.md).

    mim train mmpretrain mmconfigs/crossmae_vit-b16.py

It is MAE whose mask tokens read the encoder alone, and a third of the hidden tokens is predicted.
Cost: 800 epochs of 1.28 M images at batch 4096, 250,000 steps. Expected (README of the code, not
reproduced here): 83.7 by fine-tuning on ImageNet-1k, where all hidden tokens were predicted
(share=1 and a rate of 2.4e-3).
"""

_base_ = ["mae_vit-b16.py"]

model = dict(
    target_generator=dict(share=1 / 3),
    # the decoder reads all layers before the final norm, so that nothing would train the norm
    backbone=dict(final_norm=False),
    neck=dict(
        _delete_=True,
        type="xtra_toolkit.CrossDecoder",
        width=512,
        depth=12,
        heads=16,
        memory_layers=list(range(13)),
        positions="sincos",
        init_cfg={{_base_.xavier}},
    ),
)

# 1.5e-4 for each 256 images of the batch, times the share of the hidden tokens that is predicted
optim_wrapper = dict(optimizer=dict(lr=8e-4))
