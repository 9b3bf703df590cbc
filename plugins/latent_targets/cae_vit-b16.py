"""CAE ViT-B/16 on ImageNet-1k: regress the latents of hidden patches, and predict their ids.

Paper: arXiv 2202.03026; the recipe is MMPretrain's of 300 epochs.

    pip install ./plugins/frozen_teacher ./plugins/latent_targets
    mim train mmpretrain plugins/latent_targets/cae_vit-b16.py

The tokenizer is that of ../frozen_teacher/beit_vit-b16.py. The regressor is compared with the
encoder's own outputs at the hidden patches, without gradients. Cost: 300 epochs of 1.28 M images at
batch 2048, 188,000 steps; the encoder runs on the visible patches and on the hidden ones. Nothing
was measured with it yet. Left out: MMPretrain's encoder of the hidden patches is one step behind,
and its crop is resized for the tokenizer by another filter.
"""

_base_ = ["../frozen_teacher/beit_vit-b16.py"]

custom_imports = dict(
    imports=["xtra_toolkit", "frozen_teacher", "latent_targets", "context_autoencoder"]
)

xavier = [
    dict(type="mmengine.Xavier", layer="Linear", distribution="uniform"),
    dict(type="mmengine.TruncNormal", layer="Conv2d", std=0.02),
    dict(type="mmengine.Constant", layer="LayerNorm", val=1.0, bias=0.0),
]

model = dict(
    target_generator=dict(
        _delete_=True,
        type="xtra_toolkit.SumOfTargets",
        targets=[{{_base_.model.target_generator}}, dict(type="xtra_toolkit.HiddenLatents")],
    ),
    backbone=dict(mask_tokens=False, positions="sincos", drop_path_rate=0.0, init_cfg=xavier),
    neck=dict(
        _delete_=True,
        type="xtra_toolkit.LatentRegressor",
        regressor_depth=4,
        depth=4,
        heads=12,
        layer_scale=0.1,
        init_cfg=xavier,
    ),
    head=dict(
        _delete_=True,
        type="xtra_toolkit.SumOfHeads",
        heads=[
            dict(type="xtra_toolkit.PredictionHead", loss="cross_entropy"),
            dict(type="xtra_toolkit.OutputHead", loss="mse"),
        ],
        weights=[1.0, 2.0],
        reads=[1, 0],
    ),
)

optim_wrapper = dict(optimizer=dict(betas=(0.9, 0.999)))
