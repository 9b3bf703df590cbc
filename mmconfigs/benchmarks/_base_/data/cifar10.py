"""CIFAR-10: 10 classes, train (50,000) to test (10,000).

Source: www.cs.toronto.edu/~kriz/cifar.html. Unpack the archive cifar-10-python.tar.gz;
MMPretrain checks the MD5 sums. Images of 32 px are resized to the encoder's size.

    data/cifar10
    └── cifar-10-batches-py/data_batch_1 to data_batch_5, test_batch, batches.meta

This layout follows the public documentation; it has not been tested on the real data.
"""

_base_ = ["../images.py"]

benchmark = "CIFAR-10"
num_classes = 10

data = dict(
    type="xtra_toolkit.SeededDataset",
    dataset="mmpretrain.CIFAR10",
    data_root="data/cifar10",
    download=False,
    expects="cifar-10-batches-py/ with data_batch_1 to data_batch_5, test_batch, batches.meta, "
    "as published",
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
