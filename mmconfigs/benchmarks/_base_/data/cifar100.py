"""CIFAR-100: 100 classes, train (50,000) to test (10,000).

Source: www.cs.toronto.edu/~kriz/cifar.html. Unpack the archive cifar-100-python.tar.gz;
MMPretrain checks the MD5 sums. Images of 32 px are resized to the encoder's size.

    data/cifar100
    └── cifar-100-python/train, test, meta

This layout follows the public documentation; it has not been tested on the real data.
"""

_base_ = ["../images.py"]

benchmark = "CIFAR-100"
num_classes = 100

data = dict(
    type="xtra_toolkit.SeededDataset",
    dataset="mmpretrain.CIFAR100",
    data_root="data/cifar100",
    download=False,
    expects="cifar-100-python/ with train, test, meta, as published",
)
in_memory = dict(type="xtra_toolkit.RGBToBGR")  # the images are in memory, so no file is read
train_dataloader = dict(
    **_base_.train_loader,
    dataset=dict(**data, split="train", pipeline=[in_memory, *_base_.train_pipeline[1:]]),
)
val_dataloader = dict(
    **_base_.val_loader,
    dataset=dict(**data, split="test", pipeline=[in_memory, *_base_.val_pipeline[1:]]),
)
test_dataloader = val_dataloader
