"""Samples whose augmentation depends on (seed, epoch, index) and on nothing else.

The number of workers, of processes, the order of the samples and a resume in mid-training
change no image. ``GlobalBatchSampler`` yields such keys.
"""

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch

Key = tuple[int, int, int]  # (seed, epoch, index)


def hash_words(*numbers: int) -> list[int]:
    """Four 32-bit words from non-negative integers, the same on every machine."""
    return np.random.SeedSequence(numbers).generate_state(4).tolist()


@contextlib.contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Seeds Python's, NumPy's and torch's CPU generator from ``numbers``; restores them after.

    CUDA's generators are left alone: with ``num_workers=0`` this runs in the training process.
    """
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    python, numpy, *pytorch = hash_words(*numbers)
    random.seed(python)
    np.random.seed(numpy)
    torch.default_generator.manual_seed(pytorch[0] << 32 | pytorch[1])
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


class SeededSamples:
    """Mixin of a data set, before its base class: ``class Mine(SeededSamples, BaseDataset)``.

    ``dataset[index]`` is the base class's; ``dataset[seed, epoch, index]`` is the same sample,
    with every random draw of its pipeline a function of that key.
    """

    takes_keys = True

    def __getitem__(self, key: int | Key) -> dict:
        if not isinstance(key, tuple):
            return super().__getitem__(key)
        with seeded(*key):
            sample = super().__getitem__(key[-1])
        if (
            isinstance(sample, dict) and "data_samples" in sample
        ):  # what a model draws for this sample follows from it too
            high, low, *_ = hash_words(*key, 1)
            sample["data_samples"].set_metainfo(dict(draw_seed=high << 32 | low))
        return sample
