"""Gradient accumulation: how many micro-batches make a step, and a data loader seen in steps."""

import time
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

import torch
from mmengine.dist import all_reduce_dict
from torch.utils.data import DataLoader


def accumulation_of(global_batch: int, world_size: int, batch_size: int) -> int:
    """Micro-batches of ``batch_size`` images that each of ``world_size`` processes adds up."""
    if global_batch % (world_size * batch_size) == 0:
        return global_batch // (world_size * batch_size)
    share, rest = divmod(global_batch, world_size)
    sizes = [size for size in range(1, share + 1) if share % size == 0]
    raise ValueError(
        f"train_cfg.global_batch={global_batch} is no multiple of {world_size} (processes) x "
        f"{batch_size} (train_dataloader.batch_size). "
        + (
            f"No batch size divides it among {world_size} processes: take another number of "
            f"processes, or a global batch of {max(share, 1) * world_size}."
            if rest
            else f"Batch sizes that divide: {', '.join(map(str, sizes))}."
        )
    )


def mean_logs(logs: list[dict]) -> dict[str, torch.Tensor]:
    """The mean of each value over a step's micro-batches and over all processes."""
    mean = {key: torch.stack([log[key] for log in logs]).mean() for key in logs[0]}
    all_reduce_dict(mean, op="mean")
    return mean


class Accumulated:
    """A data loader seen in steps: each item is the lazy group of a step's micro-batches.

    It has the loader's attributes, to read and to set: hooks use its sampler and data set.
    ``waited`` is how many seconds were spent in it until its micro-batches came.
    """

    def __init__(self, loader: DataLoader, accumulation: int):
        self.__dict__.update(loader=loader, accumulation=accumulation)
        self.waited = 0.0

    __class__ = property(lambda self: DataLoader)  # to isinstance, as FlexibleRunner asks

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
            begun = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            self.waited += time.perf_counter() - begun
            yield batch
