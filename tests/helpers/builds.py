"""Build small models for the tests from configs."""

import torch
from mmengine.logging import MMLogger
from mmpretrain.registry import MODELS

MMLogger.get_instance("tests", log_level="WARNING")

MASKS = {
    "token": dict(type="xtra_toolkit.TokenCausal"),
    "block": dict(type="xtra_toolkit.BlockCausal", block_size=2),
    "block_orders": dict(type="xtra_toolkit.BlockCausal", block_size=2, order="random"),
    "bidirectional": dict(type="xtra_toolkit.Bidirectional"),
    "prefix": dict(type="xtra_toolkit.PrefixCausal"),
    "shown": dict(type="xtra_toolkit.RandomShown"),
}
TARGETS = {
    "token": dict(type="xtra_toolkit.NextToken"),
    "block": dict(type="xtra_toolkit.NextBlock"),
    "masked": dict(type="xtra_toolkit.MaskedPatches"),
}


def backwards(rows, cols, batch=1, generator=None):
    """Return an order of units that begins with the last unit."""
    return torch.arange(rows * cols).flip(0)


# required arguments of registered masks
ARGUMENTS = {
    "BlockCausal": dict(block_size=2),
    "Reordered": dict(mask=dict(type="xtra_toolkit.BlockCausal", block_size=2), order=backwards),
    "WithDecoderMask": dict(mask=MASKS["prefix"], decoder=MASKS["token"]),
    "WithPrefix": dict(mask=dict(type="xtra_toolkit.BlockCausal", block_size=2)),
}
XTRA, AIM, MAE = ("block", "block"), ("prefix", "token"), ("shown", "masked")


def arch(width=48, depth=2, heads=3):
    """Return the ``arch`` of a small encoder."""
    return dict(embed_dims=width, num_layers=depth, num_heads=heads, feedforward_channels=4 * width)


def pretrainer(
    mask,
    target,
    *,
    image=64,
    patch=8,
    decoder=None,
    head=None,
    data_preprocessor=None,
    **backbone,
):
    """Build a small pretrainer with the shape of the golden case.

    Masks and targets are given by their name in ``MASKS`` and ``TARGETS``, or as a config.
    """
    mask = MASKS[mask] if isinstance(mask, str) else mask
    target = TARGETS[target] if isinstance(target, str) else target
    decoder = dict(projection=96, width=32, depth=2, heads=2) | (decoder or {})
    backbone = dict(arch=arch(), img_size=image, patch_size=patch) | backbone
    return MODELS.build(
        dict(
            type="xtra_toolkit.MaskTargetPretrainer",
            mask=mask,
            target_generator=target,
            backbone=dict(type="xtra_toolkit.MaskedViT", **backbone),
            neck=dict(type="xtra_toolkit.ViTDecoder", **decoder),
            head=dict(type="xtra_toolkit.PredictionHead") | (head or dict(hidden=64)),
            data_preprocessor=data_preprocessor,
        )
    )


def randomise(model, seed=0, scale=0.1):
    """Draw all weights again, so that none is nearly zero; return the model in evaluation mode."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(scale * torch.randn(p.shape, generator=g) + (".ln" in name and p.ndim == 1))
    return model.eval()
