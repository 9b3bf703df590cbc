"""XTRA on Tiny-ImageNet: 16×16 tokens of 4×4 px and blocks of 4×4, the paper's token geometry.

    xtra compare mmconfigs/small/tiny_imagenet_{aim,xtra_block2,xtra}.py --data FOLDER \\
        --images 99968 --labels 10000 --tune-epochs 0

FOLDER has train/CLASS and test/CLASS of images of 64 px. The model and its settings are those of
cifar10_xtra.py; 700 MFLOP an image forward. Nothing was measured with it yet.
"""

_base_ = ["cifar10_xtra.py"]

model = dict(
    data_preprocessor=dict(mean=[122.5, 114.3, 101.4], std=[70.5, 68.5, 71.9]),
    mask=dict(block_size=4),
    backbone=dict(img_size=64),
)
