"""Test that the augmentation is a function of (seed, epoch, index)."""

import random

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from xtra_toolkit.data import Digits
from xtra_toolkit.data.seeding import SeededSamples, hash_words, seed_step, seeded


class _Draws(Dataset):
    def __len__(self):
        return 12

    def __getitem__(self, index):
        draws = random.random(), np.random.rand(), torch.rand(()).item()
        return torch.tensor([index, *draws], dtype=torch.float64)


class MaskRNG(SeededSamples, _Draws):
    pass


def keys(epoch=3, order=None):
    return [(7, epoch, index) for index in order or range(12)]


def load(sampler, workers=0):
    loader = DataLoader(MaskRNG(), sampler=sampler, batch_size=4, num_workers=workers)
    return torch.cat(list(loader))


def test_a_sample_is_the_same_whatever_the_order_and_the_workers():
    expected = load(keys())
    order = [5, 0, 11, 3, 2, 1, 4, 10, 9, 8, 7, 6]
    assert torch.equal(load(keys(order=order)), expected[order])
    assert torch.equal(load(keys(), workers=2), expected)


def test_seeds_epochs_indices_and_generators_draw_differently():
    """No number is drawn twice over three (seed, epoch), 12 indices and 3 generators."""
    other_seed = [(8, 0, index) for index in range(12)]
    draws = torch.cat([load(part) for part in (keys(epoch=0), keys(epoch=1), other_seed)])
    assert len(draws[:, 1:].unique()) == 3 * 12 * 3


def test_the_global_generators_are_left_as_they_were():
    def three():
        return random.random(), np.random.rand(), torch.rand(()).item()

    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    expected = three()
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    MaskRNG()[7, 0, 1]
    try:
        with seeded(1, 2, 3):
            raise KeyError
    except KeyError:
        pass
    assert three() == expected


def test_a_plain_index_draws_from_the_global_generators():
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    expected = [[random.random(), np.random.rand(), torch.rand(()).item()] for _ in range(2)]
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    assert [MaskRNG()[1][1:].tolist() for _ in range(2)] == expected


def test_the_hash_never_changes():
    """These numbers must be the same for any version of NumPy, machine or implementation."""
    assert hash_words(0, 0, 0) == [2968811710, 3677149159, 745650761, 2884920346]
    assert hash_words(7, 3, 1) == [1060801321, 3103788793, 2540067344, 3973745353]


def test_each_sample_has_a_seed_for_the_model():
    """The seed differs between keys and is the same for the same key; masks are drawn from it."""
    data = Digits("train", pipeline=[dict(type="mmpretrain.PackInputs")])
    keys = [(0, 0, 3), (0, 1, 3), (1, 0, 3), (0, 0, 4)]
    seeds = [data[key]["data_samples"].draw_seed for key in keys]
    assert len(set(seeds)) == 4
    assert seeds == [data[key]["data_samples"].draw_seed for key in keys]
    assert seeds[0] == 8076716188045384944  # of (0, 0, 3, 1): another stream than augmentation's
    assert "step_seed" not in data[0, 0, 3]["data_samples"]


def test_the_seed_of_the_step_changes_nothing_else_in_a_sample():
    data = Digits("train", pipeline=[dict(type="mmpretrain.PackInputs")])
    keys = [(0, 0, 3, 2), (0, 0, 4, 2), (0, 0, 3, 5), (0, 1, 3, 2), (1, 0, 3, 2)]
    one, same, *others = (data[key]["data_samples"] for key in keys)
    assert one.draw_seed == data[0, 0, 3]["data_samples"].draw_seed == 8076716188045384944
    assert one.step_seed == same.step_seed != one.draw_seed
    assert len({one.step_seed, *(sample.step_seed for sample in others)}) == 4


def test_a_step_seeds_every_generator():
    def three(*numbers):
        seed_step(*numbers)
        return random.random(), np.random.rand(), torch.rand(()).item()

    first = three(7, 0, 3, 1, 3)
    assert three(7, 0, 3, 2, 3) != first and three(7, 0, 3, 1, 3) == first
    assert len(set(first)) == 3
