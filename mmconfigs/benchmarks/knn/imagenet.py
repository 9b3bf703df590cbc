"""kNN accuracy of a frozen ViT-B/16 on ImageNet-1k at 256 px: k = 20, cosine, temperature 0.07.

    mim test mmpretrain mmconfigs/benchmarks/knn/imagenet.py -C work_dirs/xtra_vit-b16/epoch_800.pth

The checkpoint is that of a pretraining; its decoder and head are listed as unexpected keys and
ignored. The encoder's mask is read from the checkpoint. The feature is the mean of the patch
tokens after the final norm. To use the class token of an encoder that has one, set
model.backbone.with_cls_token=True model.backbone.out_type=cls_token.

For your own images, in a sub-folder for each class, add --cfg-options
test_cfg.bank_dataloader.dataset.data_root=/path/train test_dataloader.dataset.data_root=/path/val.
To do this without a config: xtra probe CHECKPOINT FOLDER. To write the features: xtra features.
Protocol: DINO (arXiv 2104.14294). The paper reports no kNN accuracy of XTRA.
"""

_base_ = ["../../_base_/runtime.py", "../_base_/images.py"]

optim_wrapper = None  # there is no training

images = dict(type="xtra_toolkit.ImageFolder", with_label=True, pipeline=_base_.val_pipeline)

model = dict(
    type="xtra_toolkit.ImageClassifier",
    data_preprocessor=dict(
        type="mmpretrain.ClsDataPreprocessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        to_rgb=True,
    ),
    backbone=dict(
        type="xtra_toolkit.MaskedViT", arch="base", img_size=256, patch_size=16, out_type="featmap"
    ),
)

test_dataloader = dict(**_base_.val_loader, dataset=dict(**images, data_root="data/imagenet/val"))
test_evaluator = dict(type="mmpretrain.Accuracy", topk=(1, 5))
test_cfg = dict(
    type="xtra_toolkit.KNNTestLoop",
    k=20,
    temperature=0.07,
    bank_dataloader=dict(
        **_base_.val_loader, dataset=dict(**images, data_root="data/imagenet/train")
    ),
)

work_dir = "work_dirs/knn/imagenet"
