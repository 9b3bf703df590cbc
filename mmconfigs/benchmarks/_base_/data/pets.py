"""Oxford-IIIT Pet: 37 breeds, trainval (3,680) to test (3,669).

From robots.ox.ac.uk/~vgg/data/pets. As the archives images.tar.gz and annotations.tar.gz
unpack.

    data/pets
    ├── images/*.jpg
    └── annotations/trainval.txt, test.txt

This layout follows the public documentation; it was never run on the real data here.
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
