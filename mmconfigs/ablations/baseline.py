"""The paper's ablation setting: 100 epochs, 10 of warm-up, decoder width 384, no drop path.

Source: elad-amrani/xtra at e711fb5, config/ablations/baseline.yaml. It has 114 images on each GPU
and does not state the number of GPUs, so the global batch here is that of the main recipe.
"""

_base_ = ["../xtra_vit-b16.py"]

model = dict(backbone=dict(drop_path_rate=0.0), neck=dict(width=384))

train_cfg = dict(max_epochs=100)

param_scheduler = [
    dict(type="mmengine.LinearLR", start_factor=0.1, end=10, convert_to_iter_based=True),
    dict(
        type="mmengine.CosineAnnealingLR",
        eta_min=1e-6,
        begin=10,
        end=100,
        convert_to_iter_based=True,
    ),
]
