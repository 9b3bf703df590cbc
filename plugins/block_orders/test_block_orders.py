"""Orders by hand and by what makes them, and a pretrainer that is told where its target lies."""

import re
from pathlib import Path

import block_orders
import numpy as np
import pytest
import torch
from mmpretrain.registry import MODELS

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.masks import BlockCausal, Reordered, TokenCausal, build_mask
from xtra_toolkit.objective.compiler import certify_objective
from xtra_toolkit.registry import ORDERS as ORDER_REGISTRY
from xtra_toolkit.targets import NextBlock
from xtra_toolkit.testing import check_mask

HERE = Path(__file__).parent


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


ORDERS = {
    "spiral": block_orders.Spiral(),
    "outwards": block_orders.Spiral(outwards=True),
    "checkerboard": block_orders.Checkerboard(),
    "hilbert": block_orders.Hilbert(),
    "centre": block_orders.CentreOut(),
    "random": block_orders.RandomOrder(),
    "annealed": block_orders.AnnealedOrder(),
    "shared": block_orders.RandomOrder(per_image=False),
}


@pytest.mark.parametrize("name", ORDERS)
@pytest.mark.parametrize("shape", [(4, 4), (8, 8), (2, 6), (5, 3), (1, 4)])
def test_each_unit_comes_once(name, shape):
    if name == "hilbert" and shape not in ((4, 4), (8, 8)):
        with pytest.raises(ValueError, match=r"a square of 1, 2, 4, 8.*given: \d×\d units"):
            ORDERS[name](*shape)
        return
    order = torch.atleast_2d(ORDERS[name](*shape, 3, gen()))
    assert order.sort(-1).values.eq(torch.arange(shape[0] * shape[1])).all()


def test_a_spiral_by_hand():
    assert ORDERS["spiral"](3, 4).tolist() == [0, 1, 2, 3, 7, 11, 10, 9, 8, 4, 5, 6]


def test_a_checkerboard_by_hand():
    assert ORDERS["checkerboard"](3, 4).tolist() == [0, 2, 5, 7, 8, 10, 1, 3, 4, 6, 9, 11]


def test_the_second_colour_comes_when_all_its_neighbours_are_known():
    place = ORDERS["checkerboard"](5, 4).argsort().view(5, 4)
    first = place < 10
    assert first.sum() == 10
    assert (first[1:] != first[:-1]).all() and (first[:, 1:] != first[:, :-1]).all()


@pytest.mark.parametrize("name", ["spiral", "outwards", "hilbert"])
@pytest.mark.parametrize("side", [2, 4, 8, 16])
def test_curves_go_from_neighbour_to_neighbour(name, side):
    order = ORDERS[name](side, side)
    moves = torch.stack([order // side, order % side]).diff(dim=1).abs().sum(0)
    assert moves.eq(1).all()


def test_outwards_is_the_way_back_and_hilbert_stays_in_its_quarter():
    assert torch.equal(ORDERS["outwards"](3, 4), ORDERS["spiral"](3, 4).flip(0))
    for quarter in ORDERS["hilbert"](8, 8).view(4, 16).tolist():
        assert len({(unit // 8 // 4, unit % 8 // 4) for unit in quarter}) == 1


@pytest.mark.parametrize("name", ORDERS)
def test_masks_in_these_orders_keep_the_contract(name, monkeypatch):
    monkeypatch.setattr(ORDER_REGISTRY, "_module_dict", dict(ORDER_REGISTRY.module_dict))
    ORDER_REGISTRY.register_module(name="Tested", module=lambda: ORDERS[name])
    tokens = dict(type="xtra_toolkit.TokenCausal")
    mask = dict(type="xtra_toolkit.Reordered", mask=tokens, order=dict(type="Tested"))
    check_mask(mask, dict(type="xtra_toolkit.NextToken", positioned=name in ("random", "annealed")))


def test_centre_out_goes_away_from_the_centre():
    order = ORDERS["centre"](5, 7)
    far = ((order // 7 - 2) ** 2 + (order % 7 - 3) ** 2).tolist()
    assert order[0] == 2 * 7 + 3 and far == sorted(far)


def test_random_orders_differ_between_images_or_are_shared():
    own, shared = (ORDERS[name](4, 4, 8, gen()) for name in ("random", "shared"))
    assert len({tuple(row) for row in own.tolist()}) == 8 and shared.shape == (16,)
    assert torch.equal(own, ORDERS["random"](4, 4, 8, gen()))


def test_the_most_salient_first(tmp_path):
    np.save(tmp_path / "map.npy", np.array([[0.1, 0.9], [0.5, 0.2]]))
    order = block_orders.BySaliency(str(tmp_path / "map.npy"))
    assert order(2, 2).tolist() == [1, 2, 3, 0]
    with pytest.raises(ValueError, match=r"a map of \(2, 2\), and there are 4×4 units"):
        Reordered(BlockCausal(2), order)(PatchGrid(8, 8))
    with pytest.raises(ValueError, match="found no file"):
        block_orders.BySaliency(str(tmp_path / "absent.npy"))


def test_quadrants_in_one_order_a_batch():
    mask = Reordered(BlockCausal(4), ORDERS["shared"])(PatchGrid(8, 8), 2, gen()).check(
        PatchGrid(8, 8)
    )
    assert mask.order.shape == (64,) and mask.step.unique_consecutive().tolist() == [0, 1, 2, 3]


def test_a_spiral_of_blocks_on_the_image():
    mask = build_mask(
        dict(
            type="xtra_toolkit.Reordered",
            mask=dict(type="xtra_toolkit.BlockCausal", block_size=2),
            order=dict(type="xtra_toolkit.Spiral"),
        )
    )(PatchGrid(4, 4))
    assert mask.order.tolist() == [0, 1, 4, 5, 2, 3, 6, 7, 10, 11, 14, 15, 8, 9, 12, 13]


def test_a_checkerboard_of_blocks_on_the_image():
    mask = Reordered(BlockCausal(2), ORDERS["checkerboard"])(PatchGrid(4, 4))
    assert mask.order.tolist() == [0, 1, 4, 5, 10, 11, 14, 15, 2, 3, 6, 7, 8, 9, 12, 13]
    assert mask.step.unique_consecutive(return_counts=True)[1].tolist() == [4] * 4


def test_an_order_for_each_image_is_refused_until_the_source_is_told():
    mask = Reordered(BlockCausal(2), ORDERS["random"])
    with pytest.raises(ValueError, match="nothing tells the model where its target lies"):
        certify_objective(mask, NextBlock(), PatchGrid(4, 4))
    told = certify_objective(mask, NextBlock(positioned=True), PatchGrid(4, 4))
    assert told.bounds.num_computed == 12 and "not told which" not in told.certificate
    shared = certify_objective(
        Reordered(TokenCausal(), ORDERS["shared"]), NextBlock(), PatchGrid(4, 4)
    )
    assert "not told which" in shared.certificate


def test_the_config_of_the_readme_is_built_and_stepped():
    (code,) = re.findall(r"```python\n(.*?)```", (HERE / "README.md").read_text(), re.DOTALL)
    space = {}
    exec(code, space)
    model = dict(space["model"])
    arch = dict(embed_dims=48, num_layers=2, num_heads=3, feedforward_channels=96)
    model["backbone"] = dict(model["backbone"], arch=arch)
    model["neck"] = dict(model["neck"], projection=64, width=32, depth=1, heads=2)
    model["head"] = dict(model["head"], hidden=32)
    torch.manual_seed(0)
    model = MODELS.build(model)
    model.init_weights()
    images = torch.randn(4, 3, 256, 256)
    optimizer, losses = torch.optim.Adam(model.parameters(), 1e-2), []
    for _ in range(6):
        loss = model.loss(images)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(p.grad is not None for p in model.parameters()) and losses[-1] < losses[0]
