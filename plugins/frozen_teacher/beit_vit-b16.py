"""BEiT ViT-B/16 on ImageNet-1k: predict the ids of a frozen tokenizer at hidden patches.

Paper: arXiv 2106.08254; the recipe is MMPretrain's of 300 epochs.

    pip install ./plugins/frozen_teacher
    mim train mmpretrain plugins/frozen_teacher/beit_vit-b16.py

The tokenizer is DALL-E's, of which MMPretrain has a copy of 215 MB; a local file may take the place
of the URL. It reads the same crop at 112 px. Cost: 300 epochs of 1.28 M images at batch 2048,
188,000 steps, and the tokenizer runs once for each image. Nothing was measured with it yet. Left
out: the colour jitter, weights of deeper layers that are initialised smaller, and a crop that is
resized for the tokenizer by another filter.
"""

_base_ = ["../../mmconfigs/maskfeat_vit-b16.py"]

custom_imports = dict(imports=["xtra_toolkit", "frozen_teacher"])

model = dict(
    mask=dict(num_hidden=75, min_block=16),
    target_generator=dict(
        _delete_=True,
        type="xtra_toolkit.FrozenTokenizer",
        teacher=dict(
            type="mmpretrain.DALL-E",
            init_cfg=dict(
                type="Pretrained",
                checkpoint="https://download.openmmlab.com/mmselfsup/1.x/target_generator_ckpt/"
                "dalle_encoder.pth",
            ),
        ),
        target=dict(type="xtra_toolkit.MaskedPatches", normalise=False),
        img_size=112,
        mean=-31.875,
        std=318.75,
    ),
    backbone=dict(
        positions="relative",
        layer_scale_init_value=0.1,
        drop_path_rate=0.1,
    ),
    head=dict(loss="cross_entropy"),
)

optim_wrapper = dict(optimizer=dict(lr=1.5e-3), clip_grad=dict(max_norm=3.0))

param_scheduler = [
    dict(type="mmengine.LinearLR", start_factor=1e-4, end=10, convert_to_iter_based=True),
    dict(
        type="mmengine.CosineAnnealingLR",
        begin=10,
        end=300,
        eta_min=1e-5,
        convert_to_iter_based=True,
    ),
]
