"""Test relative positions with activation checkpointing where the last layer computes some rows."""

import torch
from helpers.builds import arch
from mmpretrain.registry import MODELS


def gradients(with_cp):
    torch.manual_seed(0)
    model = MODELS.build(
        dict(
            type="xtra_toolkit.MaskTargetPretrainer",
            mask=dict(type="xtra_toolkit.RandomShown", mask_ratio=0.5),
            target_generator=dict(type="xtra_toolkit.MaskedPatches"),
            backbone=dict(
                type="xtra_toolkit.MaskedViT",
                arch=arch(24, 2, 2),
                img_size=32,
                patch_size=8,
                positions="relative",
                mask_tokens=True,
            ),
            neck=None,
            head=dict(type="xtra_toolkit.PredictionHead"),
            with_cp=with_cp,
        )
    )
    model.loss(torch.randn(2, 3, 32, 32))["loss"].backward()
    return [parameter.grad for parameter in model.parameters() if parameter.requires_grad]


def test_gradients_are_those_without_checkpointing():
    for plain, recomputed in zip(gradients(False), gradients(True), strict=True):
        torch.testing.assert_close(recomputed, plain)
