"""Stanford Cars: 196 classes, train (8,144) to test (8,041).

The archives were published at ai.stanford.edu/~jkrause/cars. The other published layout,
car_ims/ with cars_annos.mat, is supported too.

    data/cars
    ├── cars_train/*.jpg
    ├── cars_test/*.jpg
    └── devkit/cars_train_annos.mat, cars_test_annos_withlabels.mat

This layout follows the public documentation; it has not been tested on the real data.
"""

_base_ = ["../images.py"]

benchmark = "Cars"
num_classes = 196

data = dict(
    type="xtra_toolkit.SeededDataset",
    dataset="mmpretrain.StanfordCars",
    data_root="data/cars",
    expects="cars_train/*.jpg, cars_test/*.jpg, devkit/cars_train_annos.mat and "
    "devkit/cars_test_annos_withlabels.mat; or car_ims/*.jpg and cars_annos.mat",
)
train_dataloader = dict(
    **_base_.train_loader,
    dataset=dict(**data, split="train", pipeline=_base_.train_pipeline),
)
val_dataloader = dict(
    **_base_.val_loader,
    dataset=dict(**data, split="test", pipeline=_base_.val_pipeline),
)
test_dataloader = val_dataloader
