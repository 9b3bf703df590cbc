"""EuroSAT, RGB: 10 classes, train (21,600) to test (2,700).

Source: github.com/phelber/eurosat. EuroSAT.zip unpacks into ten folders of 64 px JPEGs. There is no
official split; `xtra dataset eurosat FOLDER` writes one: images whose number in the class ends in 0
are for validation, and those whose number ends in 5 are left out. The split has as many images as
that of the Hugging Face copy that XTRA uses (tanganke/eurosat), but not the same ones.

    data/eurosat
    ├── AnnualCrop/*.jpg, ... 10 folders
    └── train.txt, val.txt

This layout follows the public documentation; it has not been tested on the real data.
"""

_base_ = ["../images.py"]

benchmark = "EuroSAT"
num_classes = 10

data = dict(
    type="xtra_toolkit.SeededDataset",
    dataset="mmpretrain.CustomDataset",
    data_root="data/eurosat",
    expects="CLASS/*.jpg of 10 classes, and train.txt, val.txt as "
    "`xtra dataset eurosat FOLDER` writes them",
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
