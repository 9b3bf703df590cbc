"""Camelyon17 of WILDS: 2 classes, train (302,436) to val, another hospital (34,904).

Source: wilds.stanford.edu. Unpack the archive of WILDS; `xtra dataset camelyon17
data/camelyon17_v1.0` then writes the lists.

    data/camelyon17_v1.0
    ├── metadata.csv
    ├── patches/patient_004_node_4/*.png, ...
    └── train.txt, val.txt

This layout follows the public documentation; it has not been tested on the real data.
"""

_base_ = ["../images.py"]

benchmark = "Camelyon17"
num_classes = 2

data = dict(
    type="xtra_toolkit.SeededDataset",
    dataset="mmpretrain.CustomDataset",
    data_root="data/camelyon17_v1.0",
    expects="patches/*/*.png, and train.txt, val.txt as "
    "`xtra dataset camelyon17 FOLDER` writes them",
)
train_dataloader = dict(
    **_base_.train_loader,
    dataset=dict(**data, ann_file="train.txt", pipeline=_base_.train_pipeline),
)
val_dataloader = dict(
    **_base_.val_loader,
    dataset=dict(**data, ann_file="val.txt", pipeline=_base_.val_pipeline),
)
test_dataloader = val_dataloader
