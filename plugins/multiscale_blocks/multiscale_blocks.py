"""Blocks of several sizes: along the sequence (MultiscaleBlocks), or over time (NestedBlocks).

XTRA (arXiv 2411.15648) has blocks of one size, and names varying block sizes as future work.
"""

from bisect import bisect_right
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from mmengine.hooks import Hook
from torch import Tensor

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.masks import Mask, MaskFactory
from xtra_toolkit.registry import HOOKS, MASKS
from xtra_toolkit.utils.unwrap import unwrap_model


@MASKS.register_module()
class MultiscaleBlocks(MaskFactory):
    """Cut each cell of the image, in raster order, into blocks of its own size, as in a quadtree.

    attend = block(k) <= block(q). Cells are blocks of the largest size. The sizes are spread evenly
    over the cells, so ``sizes=[8, 4, 2]`` goes from coarse to fine, ``[2, 4, 8]`` from fine to
    coarse.

    Args:
        sizes: Tokens along each side of a block, in the order of the sequence, at most one size
            for each cell. Each size must divide the next larger one.
    """

    random = False

    def __init__(self, sizes: Sequence[int]):
        self.sizes = check_sizes(type(self).__name__, sizes)

    def __call__(
        self, grid: PatchGrid, batch: int = 1, generator: torch.Generator | None = None
    ) -> Mask:
        grid.no_extra("MultiscaleBlocks")
        side = max(self.sizes)
        cells, inner = grid.blocks(side), PatchGrid(side, side)
        if len(cells) < len(self.sizes):
            raise ValueError(
                f"MultiscaleBlocks was given {len(self.sizes)} sizes, and {grid} has {len(cells)} "
                f"cell(s) of {side}×{side} tokens; each size needs a cell"
            )
        cell_sizes = [self.sizes[i * len(self.sizes) // len(cells)] for i in range(len(cells))]
        blocks = [
            cell[block]
            for cell, size in zip(cells, cell_sizes, strict=True)
            for block in inner.blocks(size)
        ]
        lengths = torch.tensor([len(block) for block in blocks])
        step = torch.arange(len(blocks)).repeat_interleave(lengths)
        return Mask(torch.cat(blocks), step, unit=step)

    def for_features(self, grid: PatchGrid) -> Mask:
        """Return the same mask: the encoder keeps its blocks when it is probed."""
        return self(grid)


@MASKS.register_module()
class NestedBlocks(MaskFactory):
    """Change the block size of a block-causal mask during training, and keep its units.

    attend = block(k) <= block(q). In every stage, a block of the largest size is predicted
    together; which of its tokens attend to each other depends on the stage.
    :class:`BlockSizeCurriculum` sets the stage. Without it, and when the encoder is probed, the
    last stage is used.

    Args:
        sizes: Tokens along each side of a block, one size for each stage, rising or falling. Each
            size must divide the next larger one.
    """

    random = True  # two calls may differ, as the stage may have changed

    def __init__(self, sizes: Sequence[int]):
        self.sizes = check_sizes(type(self).__name__, sizes)
        self.stage = len(self.sizes) - 1

    def __call__(
        self, grid: PatchGrid, batch: int = 1, generator: torch.Generator | None = None
    ) -> Mask:
        return self.of_stage(grid, self.stage)

    def of_stage(self, grid: PatchGrid, stage: int) -> Mask:
        """Return the mask of a stage."""
        grid.no_extra("NestedBlocks")
        order, numbers = nested_order(grid, self.sizes)
        return Mask(order, numbers[self.sizes[stage]], unit=numbers[max(self.sizes)])

    def for_features(self, grid: PatchGrid) -> Mask:
        """Return the mask of the last stage, with which training ends."""
        return self.of_stage(grid, len(self.sizes) - 1)

    def extremes(self, grid: PatchGrid) -> list[Mask]:
        """Return the masks of all stages, so that each is certified."""
        return [self.of_stage(grid, stage) for stage in range(len(self.sizes))]


@HOOKS.register_module()
class BlockSizeCurriculum(Hook):
    """Step through the sizes of :class:`NestedBlocks` during training.

    The stage follows from the epoch alone, so a resumed run continues in the right stage.

    Args:
        milestones: Epochs, counted from 0, at which the next size begins.

    Raises:
        ValueError: The milestones do not increase, or the first is below 1.
    """

    def __init__(self, milestones: Sequence[int]):
        self.milestones = list(milestones)
        if self.milestones != sorted(set(self.milestones)) or min(self.milestones, default=1) < 1:
            raise ValueError(
                f"BlockSizeCurriculum was given milestones={self.milestones}; they must be epochs "
                "from 1 on, each later than the one before"
            )

    def before_train(self, runner: Any) -> None:
        """Raise a ValueError if the mask has other stages, or the run ends before the last one."""
        mask = self._mask(runner)
        sizes = mask.sizes if isinstance(mask, NestedBlocks) else ()
        if len(sizes) != len(self.milestones) + 1:
            raise ValueError(
                f"BlockSizeCurriculum has {len(self.milestones)} milestones and needs the mask "
                f"NestedBlocks with {len(self.milestones) + 1} sizes; the model's is "
                f"{type(mask).__name__} with {list(sizes)}"
            )
        if self.milestones and self.milestones[-1] >= runner.max_epochs:
            raise ValueError(
                f"BlockSizeCurriculum: the last size begins at epoch {self.milestones[-1]}, and "
                f"training has {runner.max_epochs}; the encoder would be probed with blocks that "
                "it was never trained with"
            )

    def before_train_epoch(self, runner: Any) -> None:
        """Set the stage of this epoch."""
        mask, stage = self._mask(runner), bisect_right(self.milestones, runner.epoch)
        if stage != mask.stage:
            size = mask.sizes[stage]
            runner.logger.info(f"The block size is {size}×{size} tokens from this epoch on.")
        mask.stage = stage

    @staticmethod
    def _mask(runner: Any) -> Any:
        return unwrap_model(runner.model).objective.mask


@cache
def nested_order(grid: PatchGrid, sizes: tuple[int, ...]) -> tuple[Tensor, dict[int, Tensor]]:
    """Return an order in which the tokens of each block are consecutive, for blocks of every size.

    Returns:
        The token at each position, (N,); for each size, the number of the block at each position,
        (N,).
    """
    blocks = {}
    for size in sizes:
        blocks[size] = torch.empty(grid.tokens, dtype=torch.long, device="cpu")
        for number, tokens in enumerate(grid.blocks(size)):
            blocks[size][tokens] = number
    order = torch.arange(grid.tokens, device="cpu")
    for size in sorted(blocks):  # a stable sort keeps the finer order inside the coarser blocks
        order = order[blocks[size][order].argsort(stable=True)]
    numbers = {
        size: block[order].unique_consecutive(return_inverse=True)[1]
        for size, block in blocks.items()
    }
    return order, numbers


def check_sizes(mask: str, sizes: Sequence[int]) -> tuple[int, ...]:
    """Return the sizes of a mask; ValueError unless each divides the next larger one."""
    rising = sorted(set(sizes))
    if not rising or rising[0] < 1 or any(big % small for small, big in pairwise(rising)):
        raise ValueError(
            f"{mask} was given sizes={list(sizes)}; give one or more, each dividing the next "
            "larger, such as [4, 2, 1]"
        )
    return tuple(sizes)
