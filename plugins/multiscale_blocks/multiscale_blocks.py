"""Blocks of several sizes: along the sequence (MultiscaleBlocks), and in time (NestedBlocks).

Fixed blocks are XTRA's (arXiv 2411.15648), which names other block sizes as a direction to go.
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
    """Cells in raster order, each cut into blocks of its own size: a quadtree of the image.

    attend = block(k) <= block(q). Cells are blocks of the largest size; the sizes are spread over
    them evenly, so ``sizes=[8, 4, 2]`` goes from coarse to fine, ``[2, 4, 8]`` from fine to coarse.

    Args:
        sizes: tokens along each side of a block, in the order of the sequence, at most one for
            each cell; sorted, each must divide the next.
    """

    random = False

    def __init__(self, sizes: Sequence[int]):
        self.sizes = nesting(type(self).__name__, sizes)

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
        share = [self.sizes[i * len(self.sizes) // len(cells)] for i in range(len(cells))]
        blocks = [
            cell[part]
            for cell, size in zip(cells, share, strict=True)
            for part in inner.blocks(size)
        ]
        lengths = torch.tensor([len(block) for block in blocks])
        step = torch.arange(len(blocks)).repeat_interleave(lengths)
        return Mask(torch.cat(blocks), step, unit=step)

    def for_features(self, grid: PatchGrid) -> Mask:
        """The encoder keeps its blocks when probed."""
        return self(grid)


@MASKS.register_module()
class NestedBlocks(MaskFactory):
    """Block-causal with blocks of one size at a time, inside units that stay the same.

    attend = block(k) <= block(q). What is predicted together is a block of the largest size, in
    every stage; who may look inside it changes with the stage. A stage is set by
    :class:`BlockSizeCurriculum`; without it, and in probing, the last one holds.

    Args:
        sizes: tokens along each side of a block, one a stage, in any direction; sorted, each must
            divide the next.
    """

    random = True  # of the objective: not the same each time; all stages are certified

    def __init__(self, sizes: Sequence[int]):
        self.sizes = nesting(type(self).__name__, sizes)
        self.stage = len(self.sizes) - 1

    def __call__(
        self, grid: PatchGrid, batch: int = 1, generator: torch.Generator | None = None
    ) -> Mask:
        return self.of(grid, self.stage)

    def of(self, grid: PatchGrid, stage: int) -> Mask:
        """The mask of a stage."""
        grid.no_extra("NestedBlocks")
        order, numbers = nested(grid, self.sizes)
        return Mask(order, numbers[self.sizes[stage]], unit=numbers[max(self.sizes)])

    def for_features(self, grid: PatchGrid) -> Mask:
        """What the encoder was trained with in the end."""
        return self.of(grid, len(self.sizes) - 1)

    def extremes(self, grid: PatchGrid) -> list[Mask]:
        """Every stage, for the certificate."""
        return [self.of(grid, stage) for stage in range(len(self.sizes))]


@HOOKS.register_module()
class BlockSizeCurriculum(Hook):
    """Goes through the sizes of :class:`NestedBlocks` during training.

    The stage follows from the epoch alone, so a resumed run is in the right one.

    Args:
        milestones: epochs, counted from 0, at which the next size begins.
    """

    def __init__(self, milestones: Sequence[int]):
        self.milestones = list(milestones)
        if self.milestones != sorted(set(self.milestones)) or min(self.milestones, default=1) < 1:
            raise ValueError(
                f"BlockSizeCurriculum was given milestones={self.milestones}; they must be epochs "
                "from 1 on, each later than the one before"
            )

    def before_train(self, runner: Any) -> None:
        """Refuse a model without these stages, or a run that ends before the last of them."""
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
                "it never saw"
            )

    def before_train_epoch(self, runner: Any) -> None:
        """Sets the stage of this epoch."""
        mask, stage = self._mask(runner), bisect_right(self.milestones, runner.epoch)
        if stage != mask.stage:
            size = mask.sizes[stage]
            runner.logger.info(f"from here on blocks of {size}×{size} tokens see themselves whole")
        mask.stage = stage

    @staticmethod
    def _mask(runner: Any) -> Any:
        model = unwrap_model(runner.model)
        return model.objective.mask


@cache
def nested(grid: PatchGrid, sizes: tuple[int, ...]) -> tuple[Tensor, dict[int, Tensor]]:
    """One order in which the blocks of every size lie together, and their numbers along it.

    Returns:
        (N,) tokens; for each size, (N,) the number of the block at each position.
    """
    blocks = {}
    for size in sizes:
        blocks[size] = torch.empty(grid.tokens, dtype=torch.long, device="cpu")
        for number, tokens in enumerate(grid.blocks(size)):
            blocks[size][tokens] = number
    order = torch.arange(grid.tokens, device="cpu")
    for size in sorted(blocks):  # a stable sort keeps the finer order inside the coarser blocks
        order = order[blocks[size][order].argsort(stable=True)]
    along = {size: block[order] for size, block in blocks.items()}
    return order, {s: b.unique_consecutive(return_inverse=True)[1] for s, b in along.items()}


def nesting(mask: str, sizes: Sequence[int]) -> tuple[int, ...]:
    """The sizes of a mask; ValueError unless each divides the next larger."""
    rising = sorted(set(sizes))
    if not rising or rising[0] < 1 or any(big % small for small, big in pairwise(rising)):
        raise ValueError(
            f"{mask} was given sizes={list(sizes)}; give one or more, each dividing the next "
            "larger, such as [4, 2, 1]"
        )
    return tuple(sizes)
