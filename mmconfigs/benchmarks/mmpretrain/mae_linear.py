"""MMPretrain's linear probe of MAE on ImageNet-1k: 224 px, on the class token.

    mim train mmpretrain mmconfigs/benchmarks/mmpretrain/mae_linear.py --cfg-options \
        model.backbone.init_cfg.checkpoint=work_dirs/mae_vit-b16/epoch_800.pth
"""

_base_ = ["mmpretrain::mae/benchmarks/vit-base-p16_8xb2048-linear-coslr-90e_in1k.py"]

runner_type = "xtra_toolkit.CheckedRunner"

model = dict(backbone=dict(type="xtra_toolkit.MaskedViT", with_cls_token=True, positions="sincos"))

train_dataloader = dict(collate_fn=dict(type="mmengine.default_collate"))
val_dataloader = dict(collate_fn=dict(type="mmengine.default_collate"))
test_dataloader = dict(collate_fn=dict(type="mmengine.default_collate"))

optim_wrapper = dict(type="xtra_toolkit.AutocastOptimWrapper")

visualizer = dict(type="xtra_toolkit.Visualizer", vis_backends=[])

work_dir = "work_dirs/mmpretrain/mae_linear"
