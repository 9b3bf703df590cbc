"""MMPretrain's fine-tuning of MAE on ImageNet-1k with layer decay 0.65, at 256 px.

    mim train mmpretrain mmconfigs/benchmarks/mmpretrain/finetune.py --cfg-options \
        model.backbone.init_cfg.checkpoint=work_dirs/xtra_vit-b16/epoch_800.pth

The encoder keeps the mask of its checkpoint during fine-tuning.
"""

_base_ = ["mmpretrain::mae/benchmarks/vit-base-p16_8xb128-coslr-100e_in1k.py"]

runner_type = "xtra_toolkit.CheckedRunner"

model = dict(
    type="xtra_toolkit.ImageClassifier",
    backbone=dict(  # sizes and attention mask are read from the checkpoint
        _delete_=True,
        type="xtra_toolkit.MaskedViT",
        drop_path_rate=0.1,
        out_type="avg_featmap",
        final_norm=False,
        init_cfg=dict(type="Pretrained", checkpoint="", prefix="backbone."),
    ),
    head=dict(
        _delete_=True,
        type="mmpretrain.LinearClsHead",
        num_classes=1000,
        loss=dict(type="mmpretrain.LabelSmoothLoss", label_smooth_val=0.1, mode="original"),
        init_cfg=[dict(type="mmengine.TruncNormal", layer="Linear", std=2e-5)],
    ),
)

train_pipeline = _base_.train_pipeline
train_pipeline[1]["scale"] = 256
test_pipeline = _base_.test_pipeline
test_pipeline[1]["scale"] = 292
test_pipeline[2]["crop_size"] = 256

train_dataloader = dict(
    collate_fn=dict(type="mmengine.default_collate"),
    dataset=dict(pipeline=train_pipeline),
)
val_dataloader = dict(
    collate_fn=dict(type="mmengine.default_collate"),
    dataset=dict(pipeline=test_pipeline),
)
test_dataloader = val_dataloader

visualizer = dict(type="xtra_toolkit.Visualizer", vis_backends=[])

work_dir = "work_dirs/mmpretrain/finetune"
