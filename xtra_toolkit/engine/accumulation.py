"""Accumulate gradients: count the micro-batches of a step, and group a data loader by steps."""

import time
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

import torch
from mmengine.dist import all_reduce_dict
from torch.utils.data import DataLoader


def accumulation_of(global_batch: int, world_size: int, batch_size: int) -> int:
    """Return the number of micro-batches that each process accumulates in a step.

    Args:
        global_batch: Number of images of an optimizer step, over all processes.
        world_size: Number of processes.
        batch_size: Number of images of a micro-batch.

    Raises:
        ValueError: The global batch cannot be divided so.
    """
    if global_batch % (world_size * batch_size) == 0:
        return global_batch // (world_size * batch_size)
    share, rest = divmod(global_batch, world_size)
    sizes = [size for size in range(1, share + 1) if share % size == 0]
    raise ValueError(
        f"train_cfg.global_batch={global_batch} is not a multiple of {world_size} (processes) x "
        f"{batch_size} (train_dataloader.batch_size). "
        + (
            f"No batch size divides it among {world_size} processes: take another number of "
            f"processes, or a global batch of {max(share, 1) * world_size}."
            if rest
            else f"Batch sizes that divide: {', '.join(map(str, sizes))}."
        )
    )


def mean_logs(logs: list[dict]) -> dict[str, torch.Tensor]:
    """Return the mean of each value over the micro-batches of a step and over all processes."""
    mean = {key: torch.stack([log[key] for log in logs]).mean() for key in logs[0]}
    all_reduce_dict(mean, op="mean")
    return mean


class Accumulated:
    """Group the micro-batches of a data loader: each item iterates lazily over those of one step.

    Attributes of the loader are read and set through this object, since hooks use its sampler and
    data set. ``waited`` counts the seconds that were spent waiting for micro-batches.

    Args:
        loader: The data loader.
        accumulation: Number of micro-batches of a step.
    """

    def __init__(self, loader: DataLoader, accumulation: int):
        self.__dict__.update(loader=loader, accumulation=accumulation)
        self.waited = 0.0

    __class__ = property(lambda self: DataLoader)  # FlexibleRunner checks it by isinstance

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def __setattr__(self, name: str, value: object):
        setattr(self.loader, name, value)

    def __len__(self) -> int:
        return len(self.loader) // self.accumulation

    def __iter__(self) -> Iterator[Iterator]:
        batches = self._timed(iter(self.loader))
        for first in batches:
            yield chain([first], islice(batches, self.accumulation - 1))

    def _timed(self, batches: Iterator) -> Iterator:
        while True:
            start = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            self.waited += time.perf_counter() - start
            yield batch
