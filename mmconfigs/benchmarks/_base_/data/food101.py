"""Food-101: 101 classes, train (75,750) to test (25,250).

Source: data.vision.ee.ethz.ch/cvl/datasets_extra/food-101. Unpack the archive food-101.tar.gz.

    data/food-101
    ├── images/apple_pie/*.jpg, ... 101 folders
    └── meta/train.txt, test.txt

This layout follows the public documentation; it has not been tested on the real data.
"""

_base_ = ["../images.py"]

benchmark = "Food101"
num_classes = 101

data = dict(
    type="xtra_toolkit.SeededDataset",
    dataset="mmpretrain.Food101",
    data_root="data/food-101",
    expects="images/CLASS/*.jpg and meta/train.txt, meta/test.txt",
)
train_dataloader = dict(
    **_base_.train_loader,
    dataset=dict(**data, split="train", pipeline=_base_.train_pipeline),
)
val_dataloader = dict(
    **_base_.val_loader,
    dataset=dict(**data, split="test", pipeline=_base_.val_pipeline),
)
test_dataloader = val_dataloader
