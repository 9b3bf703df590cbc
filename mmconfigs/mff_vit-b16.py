"""MFF ViT-B/16 on ImageNet-1k: Improving Pixel-based MIM by Reducing Wasted Modeling Capability.

Paper: arXiv 2308.00261; MMPretrain's MFF. It is MAE whose decoder reads the outputs of six layers,
and whose images are cropped less.

    mim train mmpretrain mmconfigs/mff_vit-b16.py

Cost: as mae_vit-b16.py and five Linear layers of 0.6 M parameters each. Nothing was measured with
it yet.
"""

_base_ = ["mae_vit-b16.py"]

model = dict(backbone=dict(fused_layers=[0, 2, 4, 6, 8]))

train_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type="xtra_toolkit.LoadImage"),
            dict(
                type="mmpretrain.ResizeEdge",
                scale=224,
                backend="pillow",
                interpolation="bilinear",
            ),
            dict(type="mmpretrain.RandomCrop", crop_size=224, padding=4, padding_mode="reflect"),
            dict(type="xtra_toolkit.RandomFlip", prob=0.5),
            dict(type="xtra_toolkit.PackInputs"),
        ]
    )
)
