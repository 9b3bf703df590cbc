"""MMPretrain's linear probe of MAE on ImageNet-1k, at XTRA's and AIM's 256 px.

    mim train mmpretrain mmconfigs/benchmarks/mmpretrain/linear.py --cfg-options \
        model.backbone.init_cfg.checkpoint=work_dirs/xtra_vit-b16/epoch_800.pth

Protocol: the mean of the patch tokens after the final norm, normalised again (avg_featmap), a
BatchNorm without parameters, a linear layer, LARS. It is not the paper's protocol, which is
../linear/imagenet.py. For an encoder with a class token (MAE), use mae_linear.py, which keeps
MMPretrain's image size and uses the token.
"""

_base_ = ["mmpretrain::mae/benchmarks/vit-base-p16_8xb2048-linear-coslr-90e_in1k.py"]

runner_type = "xtra_toolkit.CheckedRunner"

model = dict(
    type="xtra_toolkit.ImageClassifier",
    backbone=dict(  # sizes and attention mask are read from the checkpoint
        _delete_=True,
        type="xtra_toolkit.MaskedViT",
        out_type="avg_featmap",
        frozen_stages="all",
        init_cfg=dict(type="Pretrained", checkpoint="", prefix="backbone."),
    ),
    neck=dict(_delete_=True, type="mmpretrain.ClsBatchNormNeck"),
    head=dict(
        _delete_=True,
        type="mmpretrain.VisionTransformerClsHead",
        num_classes=1000,
        init_cfg=[dict(type="mmengine.TruncNormal", layer="Linear", std=0.01)],
    ),
)

train_dataloader = dict(
    collate_fn=dict(type="mmengine.default_collate"),
    dataset=dict(
        pipeline=[
            dict(type="xtra_toolkit.LoadImage"),
            dict(type="mmpretrain.RandomResizedCrop", scale=256, backend="pillow"),
            dict(type="mmpretrain.RandomFlip", prob=0.5),
            dict(type="mmpretrain.PackInputs"),
        ]
    ),
)
val_dataloader = dict(
    collate_fn=dict(type="mmengine.default_collate"),
    dataset=dict(
        pipeline=[
            dict(type="xtra_toolkit.LoadImage"),
            dict(type="mmpretrain.ResizeEdge", scale=292, edge="short", backend="pillow"),
            dict(type="mmpretrain.CenterCrop", crop_size=256),
            dict(type="mmpretrain.PackInputs"),
        ]
    ),
)
test_dataloader = val_dataloader

optim_wrapper = dict(type="xtra_toolkit.AutocastOptimWrapper")

visualizer = dict(type="xtra_toolkit.Visualizer", vis_backends=[])

work_dir = "work_dirs/mmpretrain/linear"
