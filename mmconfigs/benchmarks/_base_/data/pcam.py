"""PatchCamelyon: 2 classes, train (262,144) to valid (32,768).

Source: github.com/basveeling/pcam. Unpack the four HDF5 files of train and valid; `xtra dataset
pcam data/pcam` then writes their 96 px images as PNG files. It needs h5py: pip install
xtra_toolkit[benchmarks].

    data/pcam
    ├── camelyonpatch_level_2_split_train_x.h5, ..._train_y.h5, ..._valid_x.h5, ..._valid_y.h5
    ├── train/*.png, val/*.png
    └── train.txt, val.txt

This layout follows the public documentation; it has not been tested on the real data.
"""

_base_ = ["../images.py"]

benchmark = "PCAM"
num_classes = 2

data = dict(
    type="xtra_toolkit.SeededDataset",
    dataset="mmpretrain.CustomDataset",
    data_root="data/pcam",
    expects="train/*.png, val/*.png, and train.txt, val.txt as "
    "`xtra dataset pcam FOLDER` writes them",
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
