"""EVA ViT-B/16 on ImageNet-1k: predict CLIP's features of masked patches.

Paper: arXiv 2211.07636. The recipe is MMPretrain's EVA, which is MAE with another target.

    pip install ./plugins/frozen_teacher
    mim train mmpretrain plugins/frozen_teacher/eva_vit-b16.py

The teacher is OpenAI's CLIP ViT-B/16, of which MMPretrain has a copy of 335 MB; a local file may
take the place of the URL. Cost: 400 epochs of 1.28 M images at batch 4096, and the teacher runs
once for each image. Nothing was measured with it yet. The paper's own model is a ViT-g, whose
encoder holds mask tokens.
"""

_base_ = ["../../mmconfigs/mae_vit-b16.py"]

custom_imports = dict(imports=["xtra_toolkit", "frozen_teacher"])

model = dict(
    target_generator=dict(
        _delete_=True,
        type="xtra_toolkit.FrozenTeacher",
        teacher=dict(
            type="mmpretrain.CLIPGenerator",
            tokenizer_path="https://download.openmmlab.com/mmselfsup/1.x/target_generator_ckpt/"
            "clip_vit_base_16.pth.tar",
        ),
        target=dict(type="xtra_toolkit.MaskedPatches", normalise=False),
    ),
    head=dict(loss="cosine"),
)

train_cfg = dict(max_epochs=400)

param_scheduler = [
    dict(type="mmengine.LinearLR", start_factor=1e-4, end=40, convert_to_iter_based=True),
    dict(type="mmengine.CosineAnnealingLR", begin=40, end=400, convert_to_iter_based=True),
]
