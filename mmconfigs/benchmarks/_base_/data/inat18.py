"""iNaturalist 2018: 8,142 species, train (437,513) to val (24,426).

Source: github.com/visipedia/inat_comp/tree/master/2018. Unpack train_val2018.tar.gz, train2018.json
and val2018.json; then `xtra dataset inat18 data/inat18` writes train.txt and val.txt.
Labels are the category ids.

    data/inat18
    ├── train_val2018/Aves/2761/*.jpg, ...
    ├── train2018.json, val2018.json
    └── train.txt, val.txt

This layout follows the public documentation; it has not been tested on the real data.
"""

_base_ = ["../images.py"]

benchmark = "iNat18"
num_classes = 8142

data = dict(
    type="xtra_toolkit.SeededDataset",
    dataset="mmpretrain.CustomDataset",
    data_root="data/inat18",
    expects="train_val2018/CLASS/ID/*.jpg, and train.txt, val.txt as "
    "`xtra dataset inat18 FOLDER` writes them",
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
