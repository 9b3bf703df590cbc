"""RxRx1 of WILDS: 1,139 classes, train (40,612) to val, other experiments (9,854).

Source: wilds.stanford.edu. Unpack the archive of WILDS; `xtra dataset rxrx1 data/rxrx1_v1.0` then
writes the lists.

    data/rxrx1_v1.0
    ├── metadata.csv
    ├── images/HEPG2-01/Plate1/*.png, ...
    └── train.txt, val.txt

This layout follows the public documentation; it has not been tested on the real data.
"""

_base_ = ["../images.py"]

benchmark = "RxRx1"
num_classes = 1139

data = dict(
    type="xtra_toolkit.SeededDataset",
    dataset="mmpretrain.CustomDataset",
    data_root="data/rxrx1_v1.0",
    expects="images/EXPERIMENT/PLATE/*.png, and train.txt, val.txt as "
    "`xtra dataset rxrx1 FOLDER` writes them",
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
