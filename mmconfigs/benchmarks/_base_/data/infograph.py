"""Infograph, of DomainNet: 345 classes, train (36,023) to test (15,582).

Source: ai.bu.edu/M3SDA. Unpack infograph.zip, and put its two lists beside it.

    data/infograph
    ├── infograph/aircraft_carrier/*.jpg, ... 345 folders
    └── infograph_train.txt, infograph_test.txt

This layout follows the public documentation; it has not been tested on the real data.
"""

_base_ = ["../images.py"]

benchmark = "Infograph"
num_classes = 345

data = dict(
    type="xtra_toolkit.SeededDataset",
    dataset="mmpretrain.CustomDataset",
    data_root="data/infograph",
    expects="infograph/CLASS/*.jpg and infograph_train.txt, infograph_test.txt, as published",
)
train_dataloader = dict(
    **_base_.train_loader,
    dataset=dict(**data, ann_file="infograph_train.txt", pipeline=_base_.train_pipeline),
)
val_dataloader = dict(
    **_base_.val_loader,
    dataset=dict(**data, ann_file="infograph_test.txt", pipeline=_base_.val_pipeline),
)
test_dataloader = val_dataloader
