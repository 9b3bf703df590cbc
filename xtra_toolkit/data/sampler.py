"""Sample global batches, with the same images in the same step on any number of processes."""

import copy
from collections.abc import Iterator, Sized

import torch
from mmengine.dist import get_dist_info, sync_random_seed
from torch.utils.data import Sampler

from xtra_toolkit.data.seeding import Key, hash_seed
from xtra_toolkit.registry import DATA_SAMPLERS


@DATA_SAMPLERS.register_module()
class GlobalBatchSampler(Sampler):
    """Yield keys (seed, epoch, index, step) for data sets with ``SeededSamples``.

    An epoch of N images has N // global_batch full batches, taken from a permutation that depends
    on seed and epoch only. The remaining images are left out of this epoch. Rank r of W takes the
    r-th of W contiguous shares of each global batch.

    Args:
        dataset: Any object with a length.
        global_batch: Number of images of an optimizer step, over all processes.
            ``GlobalBatchLoop`` sets it from ``train_cfg.global_batch``.
        shuffle: Whether to permute the images.
        seed: Seed of all processes, set by MMEngine. None: one seed is drawn for all processes.

    Raises:
        ValueError: ``global_batch`` is missing, cannot be shared equally by the processes, or is
            larger than the data set.
    """

    def __init__(
        self,
        dataset: Sized,
        global_batch: int | None = None,
        shuffle: bool = True,
        seed: int | None = None,
    ):
        self.rank, self.world_size = get_dist_info()
        self.dataset = dataset
        self.global_batch = global_batch
        self.shuffle = shuffle
        self.seed = sync_random_seed() if seed is None else seed
        self.set_epoch(0)
        self._kept: tuple[tuple[int, int], torch.Tensor] | None = None
        self._check()
        self.steps = len(dataset) // global_batch
        self.share = global_batch // self.world_size

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Set the epoch, and the number of its global batches that are skipped."""
        self.epoch, self.start = epoch, start

    def __len__(self) -> int:
        """Return the number of images of this process in a whole epoch."""
        return self.steps * self.share

    def __iter__(self) -> Iterator[Key]:
        """Yield the keys of the present epoch, even if another is set before the end."""
        self._order()  # the copy shares the permutation
        now = copy.copy(self)
        return (key for step in range(now.start, now.steps) for key in now.keys(step))

    def keys(self, step: int) -> list[Key]:
        """Return the keys of this process in a step of the epoch."""
        start = step * self.global_batch + self.rank * self.share
        share = self._order()[start : start + self.share].tolist()
        return [(self.seed, self.epoch, index, step) for index in share]

    def _order(self) -> torch.Tensor:
        """Return the order of the images, computed once an epoch."""
        key = self.seed, self.epoch
        if self._kept is None or self._kept[0] != key:
            if self.shuffle:
                generator = torch.Generator().manual_seed(hash_seed(*key))
                order = torch.randperm(len(self.dataset), generator=generator)
            else:
                order = torch.arange(len(self.dataset))
            self._kept = key, order
        return self._kept[1]

    def _check(self) -> None:
        images, batch, world = len(self.dataset), self.global_batch, self.world_size
        if batch is None:
            raise ValueError(
                "GlobalBatchSampler got no global_batch. Train with train_cfg.type="
                "'xtra_toolkit.GlobalBatchLoop', which fills it in, or give it."
            )
        if batch < 1 or batch % world:
            raise ValueError(
                f"A global batch of {batch} images cannot be shared equally by {world} processes. "
                f"train_cfg.global_batch must be a multiple of {world}, for example "
                f"{max(batch // world, 1) * world}."
            )
        if images < batch:
            raise ValueError(
                f"An epoch would have no step: {images} images were found, and a global batch "
                f"takes {batch}. Lower train_cfg.global_batch or give more images."
            )
