"""Test parity with MMPretrain's MaskFeat: loss and every gradient, in float64."""

from pathlib import Path

import pytest
import torch
from helpers.builds import arch
from mmengine.config import Config
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.targets import HOG

CONFIG = Path(__file__).parents[2] / "mmconfigs" / "maskfeat_vit-b16.py"


def mmpretrains():
    vit = dict(type="mmpretrain.MaskFeatViT", arch=arch(), patch_size=16)
    loss = dict(type="mmpretrain.PixelReconstructionLoss", criterion="L2")
    neck = dict(type="mmpretrain.LinearNeck", in_channels=48, out_channels=108, norm_cfg=None)
    return MODELS.build(
        dict(
            type="mmpretrain.MaskFeat",
            data_preprocessor=dict(type="mmpretrain.SelfSupDataPreprocessor"),
            backbone=vit,
            neck=neck,
            head=dict(type="mmpretrain.MIMHead", loss=loss),
            target_generator=dict(type="mmpretrain.HOGGenerator"),
        )
    )


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_loss_and_every_gradient(seed):
    """MMPretrain's HOGGenerator fails in float64, so both compute the histograms in float32."""
    config = Config.fromfile(CONFIG).model
    config.backbone.arch = arch()
    theirs, ours = mmpretrains().double(), MODELS.build(config).double()
    hog = theirs.target_generator.float()
    theirs.target_generator = None
    theirs.__dict__["target_generator"] = lambda x: hog(x.float()).double()
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in theirs.parameters():
            p.copy_(0.2 * torch.randn(p.shape, generator=g, dtype=torch.float64))
    state = {n.replace("neck.fc.", "head.predictors.0."): p for n, p in theirs.named_parameters()}
    missing, unexpected = ours.load_state_dict(state, strict=False)
    assert not unexpected and not set(missing) & {n for n, _ in ours.named_parameters()}

    images = torch.randn(2, 3, 224, 224, dtype=torch.float64, generator=g)
    plan = ours.objective(2, images.device, torch.Generator().manual_seed(seed))
    masks = torch.zeros(2, 197, dtype=torch.long).scatter(
        1, plan.order, plan.hidden.long().expand(2, -1)
    )
    masks = masks[:, :196].view(2, 14, 14)
    assert (masks.sum((1, 2)) == 78).all()
    samples = []
    for mask in masks:
        samples.append(DataSample())
        samples[-1].set_field(mask, "mask")
    loss = theirs.loss(images, samples)["loss"]
    loss.backward()
    mine = ours._loss(images, plan)["loss"]
    mine.backward()
    torch.testing.assert_close(mine, loss, rtol=1e-10, atol=0)
    gradients = {n: p.grad for n, p in ours.named_parameters()}
    for name, parameter in theirs.named_parameters():
        grad = gradients[name.replace("neck.fc.", "head.predictors.0.")]
        assert (grad - parameter.grad).abs().max() <= 1e-10 * parameter.grad.abs().max(), name


def test_histograms_of_other_grids_are_those_of_the_tokens_cells():
    """Check a grid that MMPretrain's reshaping to 14×14 tokens cannot serve."""
    grid, images = PatchGrid(4, 4, (8, 8)), torch.randn(2, 3, 32, 32)
    target = HOG(cell=4, window=8)
    values = target.values(images, grid).view(2, 4, 4, 3, 9, 2, 2)
    assert target.width(grid) == 108
    cells = target.generator.out  # (B, 3, bins, rows, cols)
    torch.testing.assert_close(values[1, 2, 3], cells[1, :, :, 4:6, 6:8])
    assert target.bfloat16().generator.gaussian_kernel.dtype == torch.float32


@pytest.mark.parametrize(
    ("arguments", "grid"),
    [
        (dict(), PatchGrid(4, 4, (4, 4))),
        (dict(cell=4), PatchGrid(4, 4, (4, 4), channels=1)),
        (dict(cell=4), PatchGrid(4, 8, (4, 4))),
        (dict(cell=4), PatchGrid(5, 5, (4, 4))),
    ],
)
def test_images_that_it_cannot_serve(arguments, grid):
    with pytest.raises(ValueError, match="needs colour images, cells that tile a patch"):
        HOG(**arguments).width(grid)
