"""224 px, patch 16, token-causal (block_1x16x16_res_224.yaml)."""

_base_ = ["block_1.py"]

model = dict(backbone=dict(img_size=224))

train_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type="xtra_toolkit.ReadImage"),
            dict(
                type="xtra_toolkit.RandomResizedCrop",
                scale=224,
                crop_ratio_range=(0.3, 1.0),
                aspect_ratio_range=(0.75, 1.5),
            ),
            dict(type="xtra_toolkit.RandomFlip", prob=0.5),
            dict(type="xtra_toolkit.PackInputs"),
        ]
    )
)
