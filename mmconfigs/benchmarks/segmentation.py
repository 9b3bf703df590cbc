"""Linear segmentation with a frozen encoder at 256 px, on your images and segmentation maps.

    mim train mmpretrain mmconfigs/benchmarks/segmentation.py --cfg-options \
        model.backbone.init_cfg.checkpoint=work_dirs/xtra_vit-b16/epoch_800.pth \
        train_dataloader.dataset.data_root=/path/train val_dataloader.dataset.data_root=/path/val \
        model.num_classes=21

    /path/train/images/x.jpg         any image
    /path/train/annotations/x.png    of the same size: class number (from 0) of each pixel, or 255

Pixels of class 255 are ignored. The head is a BatchNorm and a 1x1 convolution (as in DINOv2) on the
feature maps after layers 4, 6, 8 and 12, which all have the size of the grid. The encoder's sizes
are read from its checkpoint; one with other layers or another image size needs
model.backbone.out_indices or the sizes in the pipelines. mIoU is computed at
the full size of the maps. For ADE20K, set reduce_zero_label=True in both LoadSegMap. To train the
encoder too, set model.backbone.frozen_stages=-1.

The encoder's mask is read from the checkpoint, too. Under a causal mask, a block does not attend to
later blocks, so features of early blocks depend on less of the image. To use the weights with full
attention, for which they were not trained, add
model.backbone.mask.type=xtra_toolkit.Bidirectional model.backbone.change_mask=True.

The paper reports no segmentation; this recipe is our own and is not tuned.
"""

_base_ = ["../_base_/runtime.py"]

sync_bn = "torch"  # where there are several processes

model = dict(
    type="xtra_toolkit.LinearSegmentor",
    num_classes=21,
    data_preprocessor=dict(
        type="mmpretrain.ClsDataPreprocessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        to_rgb=True,
    ),
    backbone=dict(
        type="xtra_toolkit.MaskedViT",
        out_type="featmap",
        out_indices=[3, 5, 7, 11],
        frozen_stages="all",
        init_cfg=dict(type="Pretrained", checkpoint="", prefix="backbone."),
    ),
)

pack = dict(
    type="mmpretrain.PackInputs",
    algorithm_keys=("gt_seg_map",),
    meta_keys=("sample_idx", "img_path", "seg_map_path", "ori_shape", "img_shape"),
)
loader = dict(
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    collate_fn=dict(type="mmengine.default_collate"),
)
train_dataloader = dict(
    **loader,
    batch_size=32,
    sampler=dict(type="xtra_toolkit.GlobalBatchSampler"),
    dataset=dict(
        type="xtra_toolkit.SegmentationFolder",
        data_root="data/segmentation/train",
        pipeline=[
            dict(type="xtra_toolkit.LoadImage"),
            dict(type="xtra_toolkit.LoadSegMap"),
            dict(
                type="xtra_toolkit.RandomResizedCropWithSegMap",
                scale=256,
                crop_ratio_range=(0.3, 1.0),
                backend="pillow",
                interpolation="bicubic",
            ),
            dict(type="mmpretrain.RandomFlip", prob=0.5),
            pack,
        ],
    ),
)
val_dataloader = dict(
    **loader,
    batch_size=32,
    sampler=dict(type="mmengine.DefaultSampler", shuffle=False),
    dataset=dict(
        type="xtra_toolkit.SegmentationFolder",
        data_root="data/segmentation/val",
        pipeline=[
            dict(type="xtra_toolkit.LoadImage"),
            dict(
                type="mmpretrain.Resize",
                scale=(256, 256),
                backend="pillow",
                interpolation="bicubic",
            ),
            dict(type="xtra_toolkit.LoadSegMap"),  # in its full size
            pack,
        ],
    ),
)
val_evaluator = dict(type="xtra_toolkit.MeanIoU")
val_cfg = dict()
test_dataloader = val_dataloader
test_evaluator = val_evaluator
test_cfg = dict()

train_cfg = dict(
    type="xtra_toolkit.GlobalBatchLoop", max_epochs=50, global_batch=32, val_interval=5
)
param_scheduler = [
    dict(type="mmengine.LinearLR", start_factor=0.1, end=2, convert_to_iter_based=True),
    dict(type="mmengine.CosineAnnealingLR", begin=2, end=50, convert_to_iter_based=True),
]

work_dir = "work_dirs/segmentation"
