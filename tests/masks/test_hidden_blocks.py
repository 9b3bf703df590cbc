"""Test masks that hide blocks, against MMPretrain's generators of BEiT and SimMIM."""

import numpy as np
import pytest
import torch
from mmpretrain.datasets.transforms import BEiTMaskGenerator

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.masks import HiddenBlocks, RandomShown, hidden_blocks
from xtra_toolkit.masks.rng import StepGenerator, mask_rng

GRID = PatchGrid(14, 14)


def hidden(mask, grid=GRID):
    """Return (B, rows, cols) bool, the tokens that a mask hides."""
    out = torch.zeros(len(mask.order), grid.tokens + grid.extra, dtype=torch.bool)
    hides = (~torch.atleast_2d(mask.visible)).expand(len(mask.order), -1)
    out.scatter_(1, mask.order, hides)
    return out[:, : grid.tokens].view(-1, grid.rows, grid.cols)


class Numbers:
    """Numpy's random functions that BEiTMaskGenerator calls, fed with given numbers.

    A try calls uniform twice and, if the rectangle fits, randint twice.
    """

    def __init__(self, numbers):
        self.tries, self.left = iter(numbers), []

    def uniform(self, low, high):
        if len(self.left) in (0, 2):  # a rectangle that did not fit asked for no place
            self.left = next(self.tries).tolist()
        return low + (high - low) * self.left.pop(0)

    def randint(self, low, high):
        return low + int((high - low) * self.left.pop(0))


@pytest.mark.parametrize(("num_hidden", "smallest", "largest"), [(75, 16, None), (78, 15, 30)])
def test_the_same_numbers_hide_the_same_tokens_as_in_mmpretrain(
    num_hidden, smallest, largest, monkeypatch
):
    factory = HiddenBlocks(num_hidden, smallest, largest, edge=False)
    seeds = range(20)
    mine = hidden(factory(GRID, 20, StepGenerator(list(seeds), 0, "cpu")))
    theirs = BEiTMaskGenerator(14, num_hidden, smallest, largest)
    for seed in seeds:
        numbers = mask_rng(StepGenerator([seed], 0, "cpu")).rand(1, 2_000, 4)[0].double()
        fed = Numbers(numbers)
        monkeypatch.setattr(np.random, "uniform", fed.uniform)
        monkeypatch.setattr(np.random, "randint", fed.randint)
        assert np.array_equal(theirs.transform({})["mask"], mine[seed])


def test_the_edge_is_hidden_as_in_the_original():
    """Check the last row and column, which MMPretrain's generator never hides."""
    for edge in (False, True):
        drawn = hidden(HiddenBlocks(75, edge=edge)(GRID, 64, torch.Generator().manual_seed(0)))
        assert (drawn.sum((1, 2)) == 75).all()
        assert bool(drawn[:, -1].any()) == bool(drawn[:, :, -1].any()) == edge
        assert drawn[:, 0].any() and drawn[:, :, 0].any()


def test_a_batch_that_is_done_in_the_last_tries_is_taken(monkeypatch):
    expected = HiddenBlocks(8, 2)(GRID, 4, torch.Generator().manual_seed(0))
    monkeypatch.setattr(hidden_blocks, "MOST", hidden_blocks.CHUNK)
    tried = HiddenBlocks(8, 2)(GRID, 4, torch.Generator().manual_seed(0))
    assert torch.equal(tried.order, expected.order)


def test_visible_tokens_come_first_behind_the_class_token():
    grid = PatchGrid(6, 6, extra=1)
    mask = HiddenBlocks(9, 2)(grid, 3, torch.Generator().manual_seed(0)).check(grid)
    assert mask.visible.tolist() == [True] * 28 + [False] * 9 and mask.context is mask.visible
    assert (mask.order[:, 0] == 36).all() and hidden(mask, grid).sum() == 27


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (dict(num_hidden=16), "num_hidden=16 .* it can hide 1 to 15"),
        (dict(num_hidden=10, edge=False), "it can hide 1 to 9"),
        (dict(num_hidden=4, min_block=8), "rectangles of 8 to 4 tokens"),
        (dict(num_hidden=7.5), "a whole number"),
        (dict(num_hidden=15, min_block=14), "no way to hide 15 tokens .* make min_block smaller"),
        (dict(num_hidden=4, min_aspect=3), "min_aspect=3 was given"),
    ],
)
def test_what_is_refused(arguments, sentence, monkeypatch):
    monkeypatch.setattr(hidden_blocks, "MOST", 200)
    with pytest.raises(ValueError, match=sentence):
        HiddenBlocks(**arguments)(PatchGrid(4, 4))


@pytest.mark.parametrize(("side", "grid"), [(2, GRID), ((2, 3), PatchGrid(4, 9, extra=1))])
def test_random_shown_hides_whole_blocks(side, grid):
    """Check SimMIM's mask: 0.6 of the blocks, rounded up."""
    mask = RandomShown(0.6, side)(grid, 8, torch.Generator().manual_seed(0)).check(grid)
    h, w = (side, side) if isinstance(side, int) else side
    blocks = hidden(mask, grid).unflatten(2, (-1, w)).unflatten(1, (-1, h))
    assert torch.equal(blocks.all(4).all(2), blocks.any(4).any(2))
    count = blocks.any(4).any(2).flatten(1).sum(1)
    assert (count == np.ceil(0.6 * grid.tokens / (h * w))).all()
    assert len({tuple(row.tolist()) for row in mask.order}) == 8


def test_blocks_that_do_not_tile_or_show_nothing():
    with pytest.raises(ValueError, match="blocks of 3×3 tokens do not tile"):
        RandomShown(0.5, 3)(GRID)
    with pytest.raises(ValueError, match=r"at least one block is shown up to mask_ratio=0\.750"):
        RandomShown(0.9, 7)(GRID)
