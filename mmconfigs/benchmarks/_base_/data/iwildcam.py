"""iWildCam 2020 of WILDS: 182 classes, train (129,809) to val, other camera traps (14,961).

Source: wilds.stanford.edu. Unpack the archive of WILDS; `xtra dataset iwildcam
data/iwildcam_v2.0` then writes the lists.

    data/iwildcam_v2.0
    ├── metadata.csv
    ├── train/*.jpg (all splits)
    └── train.txt, val.txt

This layout follows the public documentation; it has not been tested on the real data.
"""

_base_ = ["../images.py"]

benchmark = "iWildCam"
num_classes = 182

data = dict(
    type="xtra_toolkit.SeededDataset",
    dataset="mmpretrain.CustomDataset",
    data_root="data/iwildcam_v2.0",
    expects="train/*.jpg, and train.txt, val.txt as `xtra dataset iwildcam FOLDER` writes them",
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
