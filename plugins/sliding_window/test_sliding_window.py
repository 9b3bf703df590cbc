"""The window by hand, and how far light travels through it, measured."""

import re
from pathlib import Path

import pytest
import torch
from mmpretrain.registry import MODELS
from sliding_window import SlidingWindow

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.masks import TokenCausal
from xtra_toolkit.objective.compiler import certify_objective
from xtra_toolkit.objective.links import Links
from xtra_toolkit.targets import MaskedPatches, NextToken
from xtra_toolkit.testing import check_mask

GRID = PatchGrid(4, 4, (2, 2))


def config():
    """Return the model of the README."""
    text = (Path(__file__).parent / "README.md").read_text()
    space = {}
    exec(re.search(r"```python\n(model = .*?)```", text, re.DOTALL)[1], space)
    return space["model"]


def test_the_window_by_hand():
    rows = SlidingWindow(3)(PatchGrid(1, 5)).attention_mask()[0].int().tolist()
    assert rows == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [0, 1, 1, 1, 0],
        [0, 0, 1, 1, 1],
    ]


@pytest.mark.parametrize("window", [1, 3, 7])
def test_a_token_attends_to_window_tokens_or_to_all_before_it(window):
    rows = SlidingWindow(window)(GRID).check(GRID).attention_mask()[0].sum(-1)
    assert rows.tolist() == [min(window, i + 1) for i in range(16)]


def test_a_window_as_wide_as_the_image_is_token_causal():
    assert torch.equal(
        SlidingWindow(16)(GRID).attention_mask(), TokenCausal()(GRID).attention_mask()
    )


class Back(NextToken):
    """A target whose last position predicts the token that is ``tokens`` before it."""

    def __init__(self, tokens):
        super().__init__()
        self.tokens = tokens

    def pairs(self, mask, grid):
        return [Links(torch.tensor([[[15]]]), torch.tensor([[[15 - self.tokens]]]))]


@pytest.mark.parametrize(("depth", "reach"), [((1, 1), 4), ((2, 1), 6), ((2, 3), 10)])
def test_the_certificate_follows_the_window_through_all_layers(depth, reach):
    """Each layer reaches two tokens back; a target just out of reach does not leak."""
    with pytest.raises(ValueError, match="which reaches it through the layers"):
        certify_objective(SlidingWindow(3), Back(reach), GRID, depth)
    certify_objective(SlidingWindow(3), Back(reach + 1), GRID, depth)


def test_a_prediction_depends_on_exactly_the_tokens_that_the_layers_reach():
    """Measured: 2 + 1 layers and a window of 5 make 13 tokens."""
    model = MODELS.build(config())
    model.init_weights()
    plan, images = model.plan(torch.zeros(1, 3, 32, 32)), torch.randn(1, 3, 32, 32)
    images.requires_grad_()
    (out,) = model.reconstruct(images, plan)
    (moved,) = torch.autograd.grad(out[0, 40].square().sum(), images)
    moved = model.backbone.grid.patchify(moved)[0].abs().sum(-1).nonzero().flatten()
    assert moved.tolist() == list(range(40 - 3 * 4, 41))


def test_the_readme_trains():
    torch.manual_seed(0)
    model = MODELS.build(config())
    model.init_weights()
    assert "63 of 64 positions computed" in model.objective.certificate
    images, losses = torch.randn(4, 3, 32, 32), []
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    for _ in range(15):
        losses.append(model.loss(images)["loss"])
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.95 * losses[0]
    (features,) = model.extract_feat(images)
    assert features.shape == (4, 64, 48)


def test_refusals():
    with pytest.raises(ValueError, match=r"window=0; it must be at least 1"):
        SlidingWindow(0)
    with pytest.raises(ValueError, match="SlidingWindow has no place for a token without pixels"):
        SlidingWindow(3)(PatchGrid(2, 2, extra=1))
    with pytest.raises(ValueError, match="this mask shows every token"):
        certify_objective(SlidingWindow(3), MaskedPatches(), GRID)


def test_it_keeps_the_contract_of_a_mask():
    check_mask(
        dict(type="xtra_toolkit.SlidingWindow", window=3), dict(type="xtra_toolkit.NextToken")
    )
