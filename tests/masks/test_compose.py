"""Test masks of masks against equal masks and by facts."""

import pytest
import torch
from helpers.accelerator import META, Generator, NoCopies, NoLists, NoReads
from helpers.builds import pretrainer, randomise

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.masks import (
    Bidirectional,
    BlockCausal,
    PrefixCausal,
    RandomShown,
    Reordered,
    TokenCausal,
    UnitOrder,
    WithPrefix,
    build_mask,
)
from xtra_toolkit.objective.compiler import certify_objective
from xtra_toolkit.registry import ORDERS
from xtra_toolkit.targets import MaskedPatches, NextBlock, NextToken

GRID = PatchGrid(4, 8)


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def same(one, other):
    for field in ("order", "step", "unit", "context"):
        a, b = getattr(one, field), getattr(other, field)
        if field == "unit" and a is not None and b is None:
            b = torch.arange(len(other))
        assert (a is None and b is None) or torch.equal(a, b), field
    return True


class Backwards(UnitOrder):
    """An order that begins with the last unit."""

    random = False

    def __call__(self, rows, cols, batch=1, generator=None):
        return torch.arange(rows * cols).flip(0)


backwards = Backwards()


class PerImage(UnitOrder):
    """A different order for each image."""

    random = True

    def __call__(self, rows, cols, batch=1, generator=None):
        noise = torch.rand(batch, rows * cols, generator=generator, device=generator.device)
        return noise.argsort(-1)


def test_a_prefix_of_tokens_is_prefix_causal():
    assert same(WithPrefix(TokenCausal())(GRID, 5, gen(3)), PrefixCausal()(GRID, 5, gen(3)))


def test_a_prefix_of_blocks_is_one_long_step_of_many_units():
    mask = WithPrefix(BlockCausal(2), low=3, high=3)(GRID, 2, gen()).check(GRID)
    assert mask.step[0].tolist() == [0] * 12 + [i for i in range(1, 6) for _ in range(4)]
    assert mask.unit.tolist() == [i for i in range(8) for _ in range(4)]
    assert mask.context[0].tolist() == [True] * 12 + [False] * 20
    objective = certify_objective(WithPrefix(BlockCausal(2)), NextBlock(), GRID)
    (group,) = objective(3, torch.device("cpu"), gen()).groups
    assert (
        group.loss_mask.shape == (3, 7)
        and not group.loss_mask.all()
        and group.loss_mask[:, -1].all()
    )


def test_raster_order_changes_nothing():
    def raster(rows, cols, batch=1, generator=None):
        return torch.arange(rows * cols)

    assert same(Reordered(BlockCausal((2, 4)), raster)(GRID), BlockCausal((2, 4))(GRID))


def test_an_order_of_blocks_is_block_causals_own():
    listed = BlockCausal(2, order=list(range(8))[::-1])(GRID)
    assert same(Reordered(BlockCausal(2), backwards)(GRID), listed)
    again = Reordered(Reordered(BlockCausal(2), backwards), backwards)(GRID)  # places, not turns
    assert same(again, listed)


def test_an_order_may_have_another_one_in_evaluation():
    class RasterInEvaluation(PerImage):
        def in_evaluation(self, rows, cols, batch):
            return torch.arange(rows * cols)

    for order, raster in ((RasterInEvaluation(), True), (PerImage(), False)):
        mask = Reordered(TokenCausal(), order)
        evaluated = mask(GRID, 2).order
        assert torch.equal(evaluated, mask(GRID, 2).order)
        assert torch.equal(
            evaluated.expand(2, -1), torch.arange(len(mask(GRID))).expand(2, -1)
        ) == (raster)
        assert mask(GRID, 2, gen()).order.shape == (2, len(mask(GRID)))


def test_ragged_blocks_can_be_reordered_for_all_images_alike():
    grid = PatchGrid(3, 3)
    mask = Reordered(BlockCausal(2, ragged=True), backwards)(grid).check(grid)
    assert mask.order.tolist() == [8, 6, 7, 2, 5, 0, 1, 3, 4]
    with pytest.raises(ValueError, match=r"needs units of one size.*\[1, 2, 4\]"):
        Reordered(BlockCausal(2, ragged=True), PerImage())(grid, 2, gen())


def test_prefix_and_order_compose():
    mask = WithPrefix(Reordered(TokenCausal(), backwards), 2, 2)(GRID, 1, gen()).check(GRID)
    assert mask.order.tolist() == list(range(32))[::-1] and mask.context[0].sum() == 2


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: Reordered(PrefixCausal(), backwards)(GRID), "only a fixed mask can be composed"),
        (lambda: Reordered(Bidirectional(), backwards)(GRID), "units one after another"),
        (lambda: WithPrefix(BlockCausal(2), 1, 8)(GRID, 1, gen()), "makes 8 on .* 1 to 7"),
        (
            lambda: Reordered(BlockCausal(2), lambda *_: torch.zeros(8, dtype=torch.long))(GRID),
            r"must name each of the 8 units \(rows × cols = 2 × 4\) once",
        ),
        (lambda: Reordered(BlockCausal(2), dict(type="Zigzag")), "unknown order .*Zigzag"),
        (
            lambda: build_mask(dict(type="Reordered", mask=dict(type="Nought"), order=backwards)),
            "unknown mask",
        ),
    ],
)
def test_refusals(build, sentence):
    with pytest.raises(ValueError, match=sentence):
        build()


@pytest.fixture
def registered():
    ORDERS.register_module(name="PerImage", module=PerImage, force=True)
    yield
    ORDERS.module_dict.pop("PerImage")


def positioned(target):
    mask = dict(
        type="xtra_toolkit.Reordered",
        mask=dict(type="xtra_toolkit.BlockCausal", block_size=2),
        order=dict(type="PerImage"),
    )
    return pretrainer(mask, dict(type=f"xtra_toolkit.{target}", positioned=True))


def test_an_order_for_each_image_needs_a_positioned_query(registered):
    with pytest.raises(ValueError, match="nothing tells the model where its target lies"):
        certify_objective(Reordered(BlockCausal(2), PerImage()), NextBlock(), GRID)
    assert certify_objective(
        Reordered(BlockCausal(2), PerImage()), NextBlock(positioned=True), GRID
    )
    objective = positioned("NextBlock").objective
    assert "not told which" not in objective.certificate


def test_each_source_is_told_its_own_target(registered):
    model = randomise(positioned("NextBlock"))
    plan = model.plan(torch.zeros(3, 3, 64, 64))
    (group,) = plan.groups
    query_tokens = plan.query_tokens.gather(1, group.source_positions.flatten(1).expand(3, -1))
    assert torch.equal(query_tokens, group.tokens.flatten(1)) and plan.num_computed == 60


def test_a_prediction_depends_on_its_query_token_and_sees_no_target(registered):
    """Check that another query token at a block moves its prediction, and none before it."""
    model, images = randomise(positioned("NextBlock")), torch.randn(1, 3, 64, 64)
    images.requires_grad_()
    plan = model.plan(images)
    (before,) = model.reconstruct(images, plan)
    (grad,) = torch.autograd.grad(before[0, 7].sum(), images, retain_graph=True)
    seen = model.backbone.grid.patchify(grad).abs().sum(-1)[0].nonzero().flatten().tolist()
    assert sorted(seen) == sorted(plan.order[0, : 4 * 8].tolist())
    plan.query_tokens[0, 4 * 7 : 4 * 8] = plan.query_tokens[0, 0:4]
    (after,) = model.reconstruct(images, plan)
    moved = (after - before).abs().amax(-1)[0] > 1e-6
    assert moved.tolist() == [False] * 7 + [True] * 8


def test_a_positioned_source_has_one_target_and_a_unit_as_many_sources_as_targets(registered):
    with pytest.raises(ValueError, match="position 0 is a positioned source twice"):
        certify_objective(BlockCausal(2), NextBlock(look_ahead=2, positioned=True), GRID)
    with pytest.raises(ValueError, match=r"as many sources as targets"):
        certify_objective(BlockCausal(2, ragged=True), NextBlock(positioned=True), PatchGrid(3, 3))
    assert certify_objective(TokenCausal(), NextToken(positioned=True), GRID)


@pytest.mark.parametrize(
    ("mask", "target"),
    [
        (PrefixCausal(), NextToken()),
        (RandomShown(), MaskedPatches()),
        (BlockCausal(2, order="random"), NextBlock()),
        (WithPrefix(BlockCausal(2)), NextBlock()),
        (Reordered(BlockCausal(2), PerImage()), NextBlock(positioned=True)),
    ],
    ids=lambda part: type(part).__name__,
)
def test_a_step_reads_nothing_back_to_the_host(mask, target):
    objective = certify_objective(mask, target, GRID)
    g = gen()
    objective(3, torch.device("cpu"), g)  # the first compiles what a grid has once
    with NoReads():
        objective(3, torch.device("cpu"), g)
    objective(3, META, Generator())
    with NoCopies(), NoLists():
        objective(3, META, Generator())


def test_an_order_that_breaks_in_a_later_draw_fails_in_the_step():
    order = PerImage()
    mask = Reordered(TokenCausal(), order)
    mask.order = lambda rows, cols, batch, g: order(rows, cols, batch, g).clamp(min=1)
    with pytest.raises(RuntimeError, match="must name each of the 32 units"):
        mask(GRID, 2, gen())
