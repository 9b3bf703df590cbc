"""EuroSAT, RGB: 10 classes, train (21,600) to test (2,700).

From github.com/phelber/eurosat. As EuroSAT.zip unpacks, ten folders of 64 px JPEGs; there is no
official split. `xtra dataset eurosat FOLDER` writes one: file numbers of a class that end in 0
are for validation, those that end in 5 are left out, as many as the split of the Hugging Face
copy that XTRA takes (tanganke/eurosat) has, but not the same images.

    data/eurosat
    ├── AnnualCrop/*.jpg, ... 10 folders
    └── train.txt, val.txt

This layout follows the public documentation; it was never run on the real data here.
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
