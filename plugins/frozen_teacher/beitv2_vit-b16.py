"""BEiT v2 ViT-B/16 on ImageNet-1k: predict the ids of a frozen VQ-KD tokenizer at two depths.

Paper: arXiv 2208.06366; the recipe is MMPretrain's of 300 epochs.

    pip install ./plugins/frozen_teacher
    mim train mmpretrain plugins/frozen_teacher/beitv2_vit-b16.py

The tokenizer is VQ-KD's, of which MMPretrain has a copy; a local file may take the place of the
URL. It reads the same crop, with pixels from -1 to 1. Cost: 300 epochs of 1.28 M images at
batch 2048, 188,000 steps, and the tokenizer runs once for each image. Nothing was measured with it
yet. Left out: the colour jitter and weights of deeper layers that are initialised smaller.
"""

_base_ = ["beit_vit-b16.py"]

model = dict(
    target_generator=dict(
        teacher=dict(
            _delete_=True,
            type="mmpretrain.VQKD",
            encoder_config=dict(
                arch="base",
                img_size=224,
                patch_size=16,
                in_channels=3,
                out_indices=-1,
                drop_rate=0.0,
                drop_path_rate=0.0,
                norm_cfg=dict(type="LN", eps=1e-6),
                final_norm=True,
                out_type="featmap",
                with_cls_token=True,
                frozen_stages=-1,
                use_abs_pos_emb=True,
                use_rel_pos_bias=False,
                use_shared_rel_pos_bias=False,
                layer_scale_init_value=0.0,
                interpolate_mode="bicubic",
                patch_cfg=dict(),
                layer_cfgs=dict(),
                init_cfg=None,
            ),
            init_cfg=dict(
                type="Pretrained",
                checkpoint="https://download.openmmlab.com/mmselfsup/1.x/target_generator_ckpt/"
                "vqkd_encoder.pth",
            ),
        ),
        img_size=None,
        mean=127.5,
        std=127.5,
    ),
    backbone=dict(final_norm=False, drop_path_rate=0.0),
    neck=dict(
        _delete_=True,
        type="xtra_toolkit.PatchAggregation",
        memory_layers=[9, 12],
        depth=2,
        heads=12,
        layer_cfgs=dict(layer_scale_init_value=0.1),
    ),
    head=dict(type="xtra_toolkit.SharedHead"),
)

train_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type="xtra_toolkit.ReadImage"),
            dict(
                type="xtra_toolkit.RandomResizedCrop",
                scale=224,
                crop_ratio_range=(0.2, 1.0),
            ),
            dict(type="xtra_toolkit.RandomFlip", prob=0.5),
            dict(type="xtra_toolkit.PackInputs"),
        ]
    )
)

optim_wrapper = dict(optimizer=dict(betas=(0.9, 0.98)))
