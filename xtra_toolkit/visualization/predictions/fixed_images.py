"""Read the same few images of a run's data sets each time, for pictures of its predictions."""

from collections.abc import Sized
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from xtra_toolkit.data.seeding import seeded
from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.visualization.predictions.load import COLOURS


def fixed_images(runner: Any, grid: PatchGrid, count: int) -> tuple[str, Tensor]:
    """Return the kind of the images, such as "validation images", and them, (count, C, H, W).

    Raises:
        ValueError: No data set of the run has images of the shape of the grid, grey or in colour.
    """
    if grid.channels not in COLOURS:
        raise ValueError(f"images of {grid.channels} channels are neither grey nor in colour")
    shape = grid.channels, *grid.img_size
    validation = runner.val_loop and runner.val_loop.dataloader
    for split, loader in (("validation", validation), ("training", runner.train_dataloader)):
        if loader is not None and isinstance(loader.dataset, Sized):
            images = read_inputs(loader, count)
            if images and all(isinstance(x, Tensor) and x.shape == shape for x in images):
                return f"{split} images", torch.stack(images)
    raise ValueError(f"no data set of the run has images of shape {shape}")


def read_inputs(loader: DataLoader, count: int) -> list[Any]:
    """Return the inputs of ``count`` samples, evenly spread over the data set of a loader.

    If the loader has workers, a worker of its own reads them. So no file is open in this process
    when the workers of the loader are forked.
    """
    size = len(loader.dataset)
    picks = [i * size // count for i in range(min(count, size))] if size else []
    return list(
        DataLoader(
            FixedInputs(loader.dataset, picks),
            batch_size=None,
            num_workers=min(1, loader.num_workers),
            multiprocessing_context=loader.multiprocessing_context,
            generator=torch.Generator(),  # torch's own would move on
        )
    )


class FixedInputs(Dataset):
    """Give the inputs of chosen samples; whatever is random about them is always the same."""

    def __init__(self, dataset: Dataset, picks: list[int]):
        self.dataset, self.picks = dataset, picks

    def __len__(self) -> int:
        return len(self.picks)

    def __getitem__(self, i: int) -> Any:
        with seeded(0, self.picks[i]):
            return self.dataset[self.picks[i]]["inputs"]
