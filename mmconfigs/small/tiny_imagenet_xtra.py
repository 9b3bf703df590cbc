"""XTRA on Tiny-ImageNet: 16×16 tokens of 4×4 px and blocks of 4×4, the paper's token geometry.

    xtra compare mmconfigs/small/tiny_imagenet_{xtra,aim,xtra_block2}.py --data FOLDER \\
        --images 29952 --labels 5000 --tune-epochs 0 -o 'optim_wrapper.devices=[cuda,cpu]'

FOLDER has train/CLASS and test/CLASS of images of 64 px. The model and its settings are those of
cifar10_xtra.py; 700 MFLOP an image forward. Measured by this command on every second class
(docs/comparisons/tiny_imagenet.md), two seeds: linear probe 14.1 %, attentive 15.9 %. A random
encoder reaches 10.7 and 11.5 %, raw pixels 7.6 %.
"""

_base_ = ["cifar10_xtra.py"]

model = dict(
    data_preprocessor=dict(mean=[122.5, 114.3, 101.4], std=[70.5, 68.5, 71.9]),
    mask=dict(block_size=4),
    backbone=dict(img_size=64),
)
