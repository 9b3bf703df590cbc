"""Test that random masks depend on the samples alone, not on batch, step or rank."""

import pytest
import torch
from helpers.builds import AIM, MAE, pretrainer
from mmpretrain.structures import DataSample

from xtra_toolkit.models import pretrainer as module


def samples(*seeds, step=5):
    return [DataSample(metainfo=dict(draw_seed=seed, step_seed=step)) for seed in seeds]


def prefixes(model, data_samples, images=4):
    """Return the prefix lengths of a batch, from its loss mask."""
    (group,) = model.plan(torch.zeros(images, 3, 64, 64), data_samples).groups
    return (group.loss_mask.logical_not().sum(1) + 1).tolist()


def test_a_prefix_is_a_function_of_the_sample_alone(monkeypatch):
    model = pretrainer(*AIM)
    first = prefixes(model, samples(11, 12, 13, 14))
    torch.manual_seed(5)  # a resumed run, whose generators stand elsewhere
    monkeypatch.setattr(module, "get_rank", lambda: 3)
    assert prefixes(pretrainer(*AIM), samples(13, 14, step=6), 2) == first[2:]
    assert len(set(first)) > 1
    assert prefixes(model, samples(21, 22, 23, 24)) != first  # the next step, or epoch


def test_a_shared_order_is_the_steps():
    model = pretrainer("block_orders", "block")

    def order(*seeds, **step):
        return model.plan(torch.zeros(2, 3, 64, 64), samples(*seeds, **step)).order.tolist()

    assert order(1, 2) == order(3, 4)
    assert len({str(order(1, 2, step=step)) for step in range(8)}) > 3


def test_visible_tokens_are_a_function_of_the_samples_too():
    model = pretrainer(*MAE)
    orders = [model.plan(torch.zeros(2, 3, 64, 64), samples(1, 2)).order for _ in range(2)]
    other = model.plan(torch.zeros(2, 3, 64, 64), samples(1, 3)).order
    assert torch.equal(*orders) and torch.equal(orders[0][0], other[0])
    assert not torch.equal(orders[0][1], other[1])


@pytest.mark.parametrize("given", [None, [DataSample() for _ in range(4)]])
def test_without_seeds_of_their_own_ranks_draw_differently(given, monkeypatch):
    model, drawn = pretrainer(*AIM), []
    for rank in range(3):
        monkeypatch.setattr(module, "get_rank", lambda rank=rank: rank)
        torch.manual_seed(0)  # as where every process was seeded alike
        drawn.append(tuple(prefixes(model, given)))
    assert len(set(drawn)) == 3
