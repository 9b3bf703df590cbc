"""Make the augmentation of a sample depend on its key (seed, epoch, index) only.

Images are then independent of the number of workers and processes, of the order of the samples, and
of resuming. ``GlobalBatchSampler`` yields such keys.
"""

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch

Key = tuple[int, ...]  # (seed, epoch, index) or (seed, epoch, index, step of the epoch)


def hash_words(*numbers: int) -> list[int]:
    """Hash non-negative integers to four 32-bit words, the same on every machine."""
    return np.random.SeedSequence(numbers).generate_state(4).tolist()


def hash_seed(*numbers: int) -> int:
    """Hash non-negative integers to 64 bits, see :func:`hash_words`."""
    high, low, *_ = hash_words(*numbers)
    return high << 32 | low


@contextlib.contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Seed the CPU generators of Python, NumPy and torch from ``numbers`` within the context.

    Afterwards they are restored. The generators of CUDA are not changed: with ``num_workers=0``
    this runs in the training process.
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
    """Seed all generators of this process from ``numbers``, including those of its devices.

    What a model draws in a step then depends only on the position of the step in the training, not
    on earlier draws, so a resumed run needs no saved random state.
    """
    python, numpy, *pytorch = hash_words(*numbers)
    random.seed(python)
    np.random.seed(numpy)
    torch.manual_seed(pytorch[0] << 32 | pytorch[1])


def draw_seeds(seed: int, epoch: int, index: int, *step: int) -> dict[str, int]:
    """Return the seeds of a model for the sample of a key, see :class:`SeededSamples`."""
    seeds = dict(draw_seed=hash_seed(seed, epoch, index, 1))
    return seeds | (dict(step_seed=hash_seed(seed, epoch, *step, 2)) if step else {})


class SeededSamples:
    """Seed the pipeline of a data set, as a mixin: ``class Mine(SeededSamples, BaseDataset)``.

    ``dataset[index]`` is the sample of the base class. ``dataset[seed, epoch, index]`` is the same
    sample, with all random draws of its pipeline determined by this key. ``dataset[seed, epoch,
    index, step]`` also tells the sample its step. A model draws for one sample from its
    ``draw_seed``, and for all samples of the step from ``step_seed``.
    """

    def __getitem__(self, key: int | Key) -> dict:
        if not isinstance(key, tuple):
            return super().__getitem__(key)
        seed, epoch, index, *_ = key
        with seeded(seed, epoch, index):
            sample = super().__getitem__(index)
        if isinstance(sample, dict) and "data_samples" in sample:
            sample["data_samples"].set_metainfo(draw_seeds(*key))
        return sample
