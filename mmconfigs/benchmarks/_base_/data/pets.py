"""Oxford-IIIT Pet: 37 breeds, trainval (3,680) to test (3,669).

Source: robots.ox.ac.uk/~vgg/data/pets. Unpack the archives images.tar.gz and annotations.tar.gz.

    data/pets
    ├── images/*.jpg
    └── annotations/trainval.txt, test.txt

This layout follows the public documentation; it has not been tested on the real data.
"""

_base_ = ["../images.py"]

benchmark = "Pets"
num_classes = 37

data = dict(
    type="xtra_toolkit.SeededDataset",
    dataset="mmpretrain.OxfordIIITPet",
    data_root="data/pets",
    expects="images/*.jpg and annotations/trainval.txt, annotations/test.txt",
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
