"""What random masks draw: alike on a resumed run, different between images, steps and ranks."""

import pytest
import torch
from builds import AIM, MAE, pretrainer
from mmpretrain.structures import DataSample

from xtra_toolkit.models import pretrainer as module


def samples(*seeds):
    return [DataSample(metainfo=dict(draw_seed=seed)) for seed in seeds]


def prefixes(model, data_samples):
    """Of a batch of 4, read off what is scored."""
    (group,) = model.plan(torch.zeros(4, 3, 64, 64), data_samples).groups
    return (group.live.logical_not().sum(1) + 1).tolist()


def test_a_prefix_is_a_function_of_the_samples_alone():
    model = pretrainer(*AIM)
    first = prefixes(model, samples(11, 12, 13, 14))
    torch.manual_seed(5)  # a resumed run, whose generators stand elsewhere
    assert prefixes(pretrainer(*AIM), samples(11, 12, 13, 14)) == first
    assert len(set(first)) > 1
    assert prefixes(model, samples(21, 22, 23, 24)) != first  # the next step, or epoch


@pytest.mark.parametrize("seeds", [(11, 12, 13, 14), None])
def test_ranks_draw_differently(seeds, monkeypatch):
    model, drawn = pretrainer(*AIM), []
    for rank in range(3):
        monkeypatch.setattr(module, "get_rank", lambda rank=rank: rank)
        torch.manual_seed(0)  # as where every process was seeded alike
        drawn.append(tuple(prefixes(model, samples(*seeds) if seeds else None)))
    assert len(set(drawn)) == 3


def test_what_is_shown_is_a_function_of_the_samples_too():
    model = pretrainer(*MAE)
    orders = [model.plan(torch.zeros(2, 3, 64, 64), samples(1, 2)).order for _ in range(2)]
    other = model.plan(torch.zeros(2, 3, 64, 64), samples(1, 3)).order
    assert torch.equal(*orders) and not torch.equal(orders[0], other)
