"""Make augmentation depend on (seed, epoch, index) and on nothing else.

The number of workers and processes, the order of the samples, and resuming in the middle of a
training do not change any image. ``GlobalBatchSampler`` yields such keys.
"""

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch

Key = tuple[int, ...]  # (seed, epoch, index), and the step of the epoch where it is known


def hash_words(*numbers: int) -> list[int]:
    """Return four 32-bit words from non-negative integers, the same on every machine."""
    return np.random.SeedSequence(numbers).generate_state(4).tolist()


def hash_seed(*numbers: int) -> int:
    """Return 64 bits of :func:`hash_words`."""
    high, low, *_ = hash_words(*numbers)
    return high << 32 | low


@contextlib.contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Seed the CPU generators of Python, NumPy and torch from ``numbers``; restore them after.

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


def seed_step(*numbers: int) -> None:
    """Seed all generators of this process, and of its devices, from ``numbers``.

    What a model draws in a step is then a function of the position of the step in the training,
    whatever was drawn before. So a resumed run needs no saved random state.
    """
    python, numpy, *pytorch = hash_words(*numbers)
    random.seed(python)
    np.random.seed(numpy)
    torch.manual_seed(pytorch[0] << 32 | pytorch[1])


def draw_seeds(seed: int, epoch: int, index: int, *step: int) -> dict[str, int]:
    """Return the seeds from which a model draws, see :class:`SeededSamples`."""
    seeds = dict(draw_seed=hash_seed(seed, epoch, index, 1))
    return seeds | (dict(step_seed=hash_seed(seed, epoch, *step, 2)) if step else {})


class SeededSamples:
    """Mixin of a data set, before its base class: ``class Mine(SeededSamples, BaseDataset)``.

    ``dataset[index]`` is the sample of the base class. ``dataset[seed, epoch, index]`` is the same
    sample, with every random draw of its pipeline a function of that key. ``dataset[seed, epoch,
    index, step]`` is the same again and also knows its step. A model draws from ``draw_seed`` for
    the sample itself, and from ``step_seed`` for what all samples of the step share.
    """

    takes_keys = True

    def __getitem__(self, key: int | Key) -> dict:
        if not isinstance(key, tuple):
            return super().__getitem__(key)
        seed, epoch, index, *_ = key
        with seeded(seed, epoch, index):
            sample = super().__getitem__(index)
        if isinstance(sample, dict) and "data_samples" in sample:
            sample["data_samples"].set_metainfo(draw_seeds(*key))
        return sample
