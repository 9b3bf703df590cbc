"""Test that a training step never makes the host wait for the device, from masks to gradients."""

import pytest
import torch
from helpers.accelerator import META, NoCopies, NoLists, NoReads
from helpers.builds import AIM, MAE, MASKS, TARGETS, XTRA, arch, pretrainer
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

from xtra_toolkit.masks.rng import CounterRNG, StepGenerator
from xtra_toolkit.models import pretrainer as module

MAR = (
    dict(type="xtra_toolkit.RandomShown", mask_ratio=dict(low=0.7, high=1.0, mean=1.0, std=0.25)),
    dict(type="xtra_toolkit.MaskedPatches", normalise=False),
)
AIMV2 = dict(type="xtra_toolkit.WithDecoderMask", mask=MASKS["prefix"], decoder=MASKS["token"])
PAIRS = dict(XTRA=XTRA, AIM=AIM, MAE=MAE, MAR=MAR, block_orders=("block_orders", "block"))
PAIRS |= dict(AIMv2=(AIMV2, "token"), CrossDecoder=AIM, PromptDecoder=MAE)


@pytest.fixture(params=PAIRS)
def model(request):
    """Build a small model with class token, fixed positions and drop path, as published."""
    vit = dict(drop_path_rate=0.1)
    if request.param == "MAE":
        vit |= dict(with_cls_token=True, positions="sincos")
    if request.param == "MAR":
        vit |= dict(with_cls_token=True, mask_tokens=True)
        vit |= dict(head=dict(type="xtra_toolkit.DiffusionHead", width=16, depth=1))
    if not request.param.endswith("Decoder"):
        return pretrainer(*PAIRS[request.param], **vit).train()
    mask, target = PAIRS[request.param]
    vit |= dict(type="xtra_toolkit.MaskedViT", arch=arch(), img_size=64, patch_size=8)
    config = dict(
        type="xtra_toolkit.MaskTargetPretrainer",
        mask=MASKS[mask],
        target_generator=TARGETS[target],
        backbone=vit,
        neck=dict(type=f"xtra_toolkit.{request.param}", width=32, depth=2, heads=2),
        head=dict(type="xtra_toolkit.PredictionHead"),
    )
    return MODELS.build(config).train()


def batch(device):
    samples = [DataSample(metainfo=dict(draw_seed=seed)) for seed in (11, 12, 13)]
    return torch.randn(3, 3, 64, 64, device=device), samples


def on_meta():
    """Return a generator as if the seeds of the images had been copied to the device already."""
    generator, (step, *seeds) = OnMeta([1, 2, 3], 4, "cpu"), torch.empty(4, device=META).long()
    generator.draws = CounterRNG(torch.stack(seeds), step)
    return generator


class OnMeta(StepGenerator):
    device = META


def step(model, images, samples):
    model.loss(images, samples)["loss"].backward()


def test_nothing_is_read_back(model):
    images, samples = batch("cpu")
    step(model, images, samples)  # the first compiles what a grid has once
    with NoReads():
        step(model, images, samples)


def test_nothing_is_copied_from_the_host_either(model, monkeypatch):
    model.to(META)
    generator = on_meta()
    monkeypatch.setattr(module, "_generator", lambda *_: generator)
    images, samples = batch(META)
    step(model, images, samples)
    with NoCopies(), NoLists():
        step(model, images, samples)


@pytest.mark.gpu
def test_cuda_is_not_waited_for(model):
    images, samples = batch("cuda")
    model.cuda()
    step(model, images, samples)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(model, images, samples)
    finally:
        torch.cuda.set_sync_debug_mode("default")
