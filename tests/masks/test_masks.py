"""Test masks against independent dense transcriptions and by facts."""

import pytest
import torch

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.masks import (
    Bidirectional,
    BlockCausal,
    Mask,
    PrefixCausal,
    RandomShown,
    TokenCausal,
    build_mask,
)

GRIDS = [PatchGrid(4, 4), PatchGrid(4, 8), PatchGrid(2, 4)]


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def raster_visible(mask):
    """Return the attention mask (N, N) of the first image, with tokens in raster order."""
    order = torch.atleast_2d(mask.order)[0]
    n = len(order)
    dense = torch.zeros(n, n, dtype=torch.bool)
    dense[order[:, None], order[None, :]] = mask.attention_mask()[0]
    return dense


def transcribe(grid, see):
    """Compute an attention mask in plain Python from see((row, col) of q, (row, col) of k)."""
    at = [divmod(t, grid.cols) for t in range(grid.tokens)]
    return torch.tensor([[see(q, k) for k in at] for q in at])


@pytest.mark.parametrize("grid", GRIDS)
def test_block_causal_dense(grid):
    def block(t):
        return (t[0] // 2) * (grid.cols // 4) + t[1] // 4

    dense = transcribe(grid, lambda q, k: block(k) <= block(q))
    assert torch.equal(raster_visible(BlockCausal((2, 4))(grid)), dense)


@pytest.mark.parametrize("grid", [PatchGrid(14, 14), PatchGrid(5, 3)])
def test_ragged_blocks_dense(grid):
    def block(t):
        return t[0] // 4, t[1] // 4

    mask = BlockCausal(4, ragged=True)(grid).check(grid)
    assert torch.equal(raster_visible(mask), transcribe(grid, lambda q, k: block(k) <= block(q)))
    sizes = mask.unit.unique_consecutive(return_counts=True)[1].tolist()
    assert sizes[:2] == ([16, 16] if grid.rows == 14 else [12, 3]) and sum(sizes) == grid.tokens
    with pytest.raises(ValueError, match=r"need blocks of one size"):
        BlockCausal(4, order="random", ragged=True)(grid, 1, gen())


def test_ragged_changes_nothing_where_blocks_tile():
    grid = PatchGrid(4, 8)
    one, other = BlockCausal(2)(grid), BlockCausal(2, ragged=True)(grid)
    assert torch.equal(one.order, other.order) and torch.equal(one.step, other.step)


def test_token_causal_starts_with_a_token_without_pixels():
    grid = PatchGrid(1, 3, extra=1)
    mask = TokenCausal()(grid)
    assert mask.order.tolist() == [3, 0, 1, 2] and mask.step.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("grid", GRIDS)
def test_token_causal_dense(grid):
    assert torch.equal(raster_visible(TokenCausal()(grid)), transcribe(grid, lambda q, k: k <= q))


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("prefix", [1, 3, 7])
def test_prefix_causal_dense(grid, prefix):
    def see(q, k):
        return k <= q or k[0] * grid.cols + k[1] < prefix

    mask = PrefixCausal(prefix, prefix)(grid, 2, gen())
    assert torch.equal(raster_visible(mask), transcribe(grid, see))
    assert mask.context[0].tolist() == [t < prefix for t in range(grid.tokens)]


def test_bidirectional_dense():
    grid = PatchGrid(2, 3)
    assert raster_visible(Bidirectional()(grid)).all()


@pytest.mark.parametrize("grid", GRIDS)
def test_block_size_one_is_token_causal_and_one_block_is_bidirectional(grid):
    one = BlockCausal(1)(grid)
    token = TokenCausal()(grid)
    assert torch.equal(one.order, token.order) and torch.equal(one.step, token.step)
    whole = BlockCausal((grid.rows, grid.cols))(grid)
    both = Bidirectional()(grid)
    assert torch.equal(whole.order, both.order) and torch.equal(whole.step, both.step)


def test_random_orders_share_no_prefix_and_are_fixed():
    grid, factory = PatchGrid(8, 8), BlockCausal(2, order="random", seed=3)
    orders = torch.stack(grid.blocks(2))[factory.orders(16)]
    assert len(orders) == 16
    assert len({int(o[0, 0]) for o in orders}) == 16  # the first blocks all differ
    drawn = {tuple(factory(grid, 1, gen(s)).order.tolist()) for s in range(64)}
    assert drawn <= {tuple(o.flatten().tolist()) for o in orders} and len(drawn) > 8
    assert torch.equal(factory(grid).order, orders[0].flatten())


def test_prefixes_differ_within_a_batch_and_cover_their_range():
    prefix = PrefixCausal()(PatchGrid(2, 4), 512, gen()).context.sum(-1)
    assert sorted(prefix.unique().tolist()) == list(range(1, 8))


def test_random_shown_hides_its_share_and_differs_between_images():
    mask = RandomShown(0.75)(PatchGrid(8, 8), 4, gen())
    assert int(mask.visible.sum()) == 16 and mask.context is mask.visible
    assert len({tuple(sorted(o[:16].tolist())) for o in mask.order}) == 4


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        (dict(order=[0, 9]), "must hold token numbers 0 to 3"),
        (dict(step=[1, 0]), "`step` decreases from position 0 to 1"),
        (dict(unit=[1, 0]), "`unit` decreases"),
        (dict(visible=[False, False]), "at least one"),
        (dict(visible=[True]), "`visible` has 1 positions, `order` 2"),
        (dict(visible=[1, 0]), "`visible` must hold bool"),
        (dict(step=[0.0, 1.0]), "`step` must hold whole numbers"),
        (dict(order=[[0, 1]] * 2, context=[[False, True]] * 3), "of one batch"),
    ],
)
def test_a_broken_mask_is_refused(broken, sentence):
    fields = dict(order=[0, 1], step=[0, 1]) | broken
    with pytest.raises(ValueError, match=sentence):
        Mask(**{k: torch.tensor(v) for k, v in fields.items()}).check(PatchGrid(2, 2))


def test_a_row_that_sees_nothing_is_refused():
    raster = torch.arange(4)
    with pytest.raises(ValueError, match="position 0 may attend to nothing"):
        Mask(raster, raster, attend=lambda q, k: k < q).check(PatchGrid(2, 2))


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (dict(type="Spiral"), r"unknown mask 'Spiral'; known masks: .*BlockCausal.*TokenCausal"),
        (dict(block_size=4), "must be a dict with a `type`"),
        (dict(type="BlockCausal"), "cannot be made of {}.*block_size"),
        (dict(type="BlockCausal", block_size=2, order="snake"), "valid: 'raster', 'random'"),
        (dict(type="RandomShown", mask_ratio=75), "it is a number between 0 and 1, or a dict"),
        (dict(type="RandomShown", mask_ratio=None), "mask_ratio=None was given"),
    ],
)
def test_bad_configs(config, sentence):
    with pytest.raises(ValueError, match=sentence):
        build_mask(config)


def test_orders_and_prefixes_that_do_not_fit_the_grid():
    with pytest.raises(ValueError, match="each of the 4 blocks 0 to 3 once"):
        BlockCausal(2, order=[0, 1, 1, 2])(PatchGrid(4, 4))
    with pytest.raises(ValueError, match="allows 1 to 7"):
        PrefixCausal(1, 8)(PatchGrid(2, 4))


def test_a_class_token_has_no_place_in_a_causal_mask():
    with pytest.raises(ValueError, match="with_cls_token=False"):
        BlockCausal(1)(PatchGrid(2, 2, extra=1))


def test_a_plugin_that_fails_to_load_is_named(monkeypatch):
    from importlib.metadata import EntryPoint

    from xtra_toolkit import plugins

    point = EntryPoint("spirals", "vortex_that_is_absent", plugins.GROUP)
    monkeypatch.setattr(plugins, "installed", lambda: {"spirals": point})
    monkeypatch.setattr(plugins, "FAILED", {})
    plugins.load_plugins()
    with pytest.raises(ValueError, match=r"plugin 'spirals' failed.*No module named 'vortex"):
        build_mask(dict(type="Spiral"))
