"""Describable Textures: 47 classes, train and val (3,760) to test (1,880).

Source: robots.ox.ac.uk/~vgg/data/dtd. Unpack the archive dtd-r1.0.1.tar.gz. The first of its ten
splits is used.

    data/dtd
    ├── images/banded/*.jpg, ... 47 folders
    └── imdb/imdb.mat

This layout follows the public documentation; it has not been tested on the real data.
"""

_base_ = ["../images.py"]

benchmark = "DTD"
num_classes = 47

data = dict(
    type="xtra_toolkit.SeededDataset",
    dataset="mmpretrain.DTD",
    data_root="data/dtd",
    expects="images/CLASS/*.jpg and imdb/imdb.mat",
)
train_dataloader = dict(
    **_base_.train_loader,
    dataset=dict(**data, split="trainval", pipeline=_base_.train_pipeline),
)
val_dataloader = dict(
    **_base_.val_loader,
    dataset=dict(**data, split="test", pipeline=_base_.val_pipeline),
)
test_dataloader = val_dataloader
