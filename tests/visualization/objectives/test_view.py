"""Test views and predictions against known facts and independent transcriptions."""

import pytest
import torch

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.masks import (
    BlockCausal,
    Mask,
    MaskFactory,
    PrefixCausal,
    RandomShown,
    TokenCausal,
)
from xtra_toolkit.masks.rng import mask_rng
from xtra_toolkit.objective.compiler import Refusal, certify_objective, compile_objective
from xtra_toolkit.targets import MaskedPatches, NextBlock, NextToken
from xtra_toolkit.visualization.objectives.prediction import leaking, names, pick
from xtra_toolkit.visualization.objectives.text import braille
from xtra_toolkit.visualization.objectives.view import BLIND, BOTH, DEAD, DECODER, View

GRID = PatchGrid(4, 4, (2, 2))


def xtra_view():
    return View.of(BlockCausal(2)(GRID), GRID, 12)


def test_the_order_of_blocks_of_two_on_the_grid():
    numbers = torch.tensor([int(n) for n in xtra_view().numbers]).view(4, 4)
    assert numbers.tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]
    assert xtra_view().steps.view(4, 4)[:, ::2].tolist() == [[0, 1], [0, 1], [2, 3], [2, 3]]


def test_both_matrices_against_the_definition_of_block_causal():
    """The block is position // 4 in sequence order, and that of (row, column) in raster order."""
    for name, block in (
        ("sequence", [position // 4 for position in range(16)]),
        ("raster", [2 * (row // 2) + col // 2 for row in range(4) for col in range(4)]),
    ):
        pairs = getattr(xtra_view(), name)
        for q in range(16):
            for k in range(16):
                kv_lengths = block[k] <= block[q]
                dead = block[q] == 3  # the last block is never computed
                assert pairs[q, k] == (
                    DEAD if kv_lengths and dead else BOTH if kv_lengths else BLIND
                )


def test_a_quarter_is_visible_context_and_the_rest_hidden():
    mask = RandomShown(0.75)(GRID, 1, torch.Generator().manual_seed(3))
    view = View.of(mask, GRID)
    visible = set(mask.order[0, :4].tolist())
    assert {t for t in range(16) if view.context[t]} == visible
    assert {t for t in range(16) if view.hidden[t]} == set(range(16)) - visible
    both = torch.zeros(16, 16, dtype=torch.bool)
    both[:4, :4] = True
    assert torch.equal(view.sequence == BOTH, both)
    assert torch.equal(view.sequence == DECODER, ~both)
    assert (view.raster == BOTH).nonzero().unique().tolist() == sorted(visible)


def test_tokens_left_out_repeated_and_without_pixels():
    grid = PatchGrid(2, 2, (2, 2), extra=1)
    view = View.of(Mask(torch.tensor([4, 0, 1, 0]), torch.arange(4)), grid)
    assert view.numbers == ["1, 3", "2", "", "", "0"]
    assert view.steps.tolist() == [1, 2, -1, -1, 0]
    assert not view.hidden.any()
    # row 0 is the token without pixels; token 0 is first and last, and so sees all tokens
    assert (view.raster > 0).int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 0, 0],
        [0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0],
    ]


def links(mask, target, depth=(2, 2)):
    objective = certify_objective(mask, target, GRID, depth)
    return mask(GRID, 1, torch.Generator().manual_seed(0)), objective.links, GRID, depth


def test_a_block_predicts_the_next_and_reads_all_before_it():
    found = pick(*links(BlockCausal(2), NextBlock()), 1)
    assert (found.number, found.count, found.in_loss) == (1, 3, True)
    assert (found.source_positions, found.target_positions) == ([4, 5, 6, 7], [8, 9, 10, 11])
    assert (found.from_tokens, found.of_tokens) == ([2, 3, 6, 7], [8, 9, 12, 13])
    assert found.reads.nonzero().flatten().tolist() == list(range(8)) and not found.leaks
    assert (
        "the outputs at positions 4 to 7, patches (0, 2) to (1, 3), predict patches (2, 0) to"
        in (found.sentence(GRID))
    )


def test_groups_are_numbered_one_after_another():
    """With look-ahead 2 there are three predictions at distance 1, then two at distance 2."""
    given = links(BlockCausal(2), NextBlock(look_ahead=2))
    assert pick(*given, 3).target_positions == [8, 9, 10, 11] and pick(
        *given, 3
    ).source_positions == [0, 1, 2, 3]
    with pytest.raises(ValueError, match=r"prediction 5 was asked for; .* 5 predictions .* 0 to 4"):
        pick(*given, 5)
    with pytest.raises(ValueError, match="prediction -1 was asked for"):
        pick(*given, -1)


def test_a_hidden_patch_is_predicted_from_the_visible_ones():
    found = pick(*links(RandomShown(), MaskedPatches()), 0)
    assert (
        found.source_positions == found.target_positions == [4]
        and found.from_tokens == found.of_tokens
    )
    assert found.reads.sum() == 4


def test_a_prediction_in_the_loss_is_picked_and_one_in_the_prefix_is_not_in_the_loss():
    given = links(PrefixCausal(11, 11), NextToken())
    assert pick(*given).source_positions == [12]  # 10 to 14 predict tokens that are not context
    assert "it is not in the loss: its targets are context" in pick(*given, 3).sentence(GRID)
    assert pick(*given, 3).reads.sum() == 11  # it sees the whole prefix nevertheless


class Window(TokenCausal):
    """A mask with a predicate instead of steps."""

    def __call__(self, grid, batch=1, generator=None):
        at = torch.arange(grid.tokens)
        return Mask(at, at, attend=lambda q, k: (k <= q) & (k > q - 3))


@pytest.mark.parametrize("depth", [(1, 1), (2, 1), (3, 2)])
def test_the_reach_of_a_window_grows_by_two_with_each_layer(depth):
    found = pick(*links(Window(), NextToken(), depth=depth), 14)
    assert found.reads.sum() == min(15, 2 * sum(depth) + 1)


class TwoMasks(MaskFactory):
    """Two masks an image with one pass of the encoder, as in I-JEPA."""

    random = True

    def __call__(self, grid, batch=1, generator=None):
        g = mask_rng(generator)
        order = g.rand(batch, grid.tokens).argsort(1)
        order = torch.cat([order[:, :10], order[:, [0, 1, 2, 3, *range(10, 16)]]])
        at = torch.arange(10)
        return Mask(order, torch.zeros_like(at), visible=at < 4, context=at < 4, masks_per_image=2)


def test_the_second_mask_of_an_image_has_its_own_predictions():
    mask, *rest = links(TwoMasks(), MaskedPatches())
    found = pick(mask, *rest, 7)
    assert (found.row, found.count, found.target_positions) == (1, 12, [5])
    assert found.of_tokens == [int(mask.order[1, 5])]
    assert View.of(mask, GRID, row=1).numbers[found.of_tokens[0]] == "5"


def test_the_first_leak_is_found():
    refusal = compile_objective(BlockCausal(2), NextToken(), GRID).certify((1, 1))
    found = leaking(refusal)
    assert (found.number, found.leaks) == (0, [1])
    assert leaking(Refusal("nothing to predict", GRID)) is None


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        ([5], "patch (1, 1)"),
        ([1, 2, 5, 6], "patches (0, 1) to (1, 2)"),
        ([0, 2], "2 tokens, the first patch (0, 0)"),
    ],
)
def test_tokens_are_named_in_image_coordinates(tokens, said):
    assert names(tokens, GRID) == said


def test_a_braille_dot_is_a_pair_that_attends():
    assert braille(torch.eye(4)) == ["⠑⢄"]
    small = braille(torch.ones(256, 256).tril())
    assert len(small) == 16 and set(map(len, small)) == {32}
    assert small[0] == "⣷⣄" + "⠀" * 30 and small[-1] == "⣿" * 30 + "⣷⣄"
