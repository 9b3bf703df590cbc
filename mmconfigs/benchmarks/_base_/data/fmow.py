"""fMoW of WILDS: 62 classes, train, before 2013 (76,863), to val, 2013 to 2015 (19,915).

Source: wilds.stanford.edu (Functional Map of the World). Unpack the archive of WILDS; `xtra
dataset fmow data/fmow_v1.1` then writes the lists. XTRA uses the train and val of a Hugging Face
copy (danielz01/fMoW); how these relate to the splits of WILDS is not known.

    data/fmow_v1.1
    ├── rgb_metadata.csv
    ├── images/rgb_img_*.png
    └── train.txt, val.txt

This layout follows the public documentation; it has not been tested on the real data.
"""

_base_ = ["../images.py"]

benchmark = "fMoW"
num_classes = 62

data = dict(
    type="xtra_toolkit.SeededDataset",
    dataset="mmpretrain.CustomDataset",
    data_root="data/fmow_v1.1",
    expects="images/rgb_img_*.png, and train.txt, val.txt as "
    "`xtra dataset fmow FOLDER` writes them",
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
