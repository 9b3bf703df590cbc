"""ImageNet-1k: 1000 classes, train (1,281,167) to val (50,000).

Source: image-net.org. The class names are the WordNet ids of the folders, in alphabetical order.

    data/imagenet
    ├── train
    │   ├── n01440764/*.JPEG
    │   └── ... 1000 folders
    └── val
        ├── n01440764/*.JPEG
        └── ... 1000 folders

This layout follows the public documentation; it has not been tested on the real data.
"""

_base_ = ["../images.py"]

benchmark = "ImageNet-1k"
num_classes = 1000

data = dict(
    type="xtra_toolkit.SeededDataset",
    dataset="mmpretrain.ImageNet",
    data_root="data/imagenet",
    expects="train/ and val/, each with 1000 folders of images, n01440764 to n15075141",
)
train_dataloader = dict(
    **_base_.train_loader,
    dataset=dict(**data, split="train", pipeline=_base_.train_pipeline),
)
val_dataloader = dict(
    **_base_.val_loader,
    dataset=dict(**data, split="val", pipeline=_base_.val_pipeline),
)
test_dataloader = val_dataloader
