"""Block-causal order: the mask of XTRA (arXiv 2411.15648; elad-amrani/xtra at e711fb5)."""

from functools import lru_cache

import torch
from torch import Tensor

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.masks.rng import mask_rng
from xtra_toolkit.objective.mask import Mask, MaskFactory
from xtra_toolkit.registry import MASKS


@MASKS.register_module()
class BlockCausal(MaskFactory):
    """Put blocks one after another; a token attends to its own block and to all earlier ones.

    attend = block(k) <= block(q). The tokens of a block are neighbours in the sequence.

    Args:
        block_size: Number of tokens along each side of a block, or (height, width).
        order: Order of the blocks: ``'raster'``, ``'random'``, or a permutation of the blocks as a
            list. ``'random'`` is the paper's ablation: there are as many fixed permutations as
            blocks, no two of which share a prefix. One is drawn for each batch; evaluation uses the
            first.
        seed: Seed of the fixed permutations.
        ragged: Whether the last blocks of a row or column may be smaller if the blocks do not tile
            the grid (XTRA's blocks of 4 on 14×14 tokens). If not, such a grid is refused.
    """

    def __init__(
        self,
        block_size: int | tuple[int, int],
        order: str | list = "raster",
        seed: int = 0,
        ragged: bool = False,
    ):
        if isinstance(order, str) and order not in ("raster", "random"):
            raise ValueError(
                f"order={order!r} was given to BlockCausal; valid: 'raster', 'random', or a list "
                "that names each block once"
            )
        self.block_size, self.order, self.seed, self.ragged = block_size, order, seed, ragged
        self.random = order == "random"

    def __call__(
        self, grid: PatchGrid, batch: int = 1, generator: torch.Generator | None = None
    ) -> Mask:
        grid.no_extra("BlockCausal")
        if self.random and generator is not None:
            orders, step = random_orders(self, grid, generator.device)
            pick = mask_rng(generator).shared.randint(0, len(orders), (1,))
            return Mask(order=orders.index_select(0, pick)[0], step=step, unit=step)
        blocks = grid.blocks(self.block_size, self.ragged)
        first = [blocks[i] for i in self.orders(len(blocks))[0].tolist()]
        step = torch.tensor([i for i, block in enumerate(first) for _ in block])
        return Mask(order=torch.cat(first), step=step, unit=step)

    def for_features(self, grid: PatchGrid) -> Mask:
        """Return the same mask, as XTRA does when it is probed."""
        return self(grid)

    def orders(self, n: int) -> Tensor:
        """Return (orders, n): the orders of n blocks that may be drawn."""
        if self.order == "raster":
            return torch.arange(n)[None]
        if self.random:
            # Two orders share a prefix exactly when they share the first block, so each block
            # leads one order.
            g = torch.Generator().manual_seed(self.seed)
            noise = torch.rand(n, n, generator=g)
            noise[torch.arange(n), torch.randperm(n, generator=g)] = -1
            return noise.argsort(-1)
        if sorted(self.order) != list(range(n)):
            raise ValueError(
                f"BlockCausal was given an order of {len(self.order)} blocks; it must name each "
                f"of the {n} blocks 0 to {n - 1} once"
            )
        return torch.tensor(self.order)[None]


@lru_cache(maxsize=64)
def random_orders(
    mask: BlockCausal, grid: PatchGrid, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return (orders, N) tokens in each order that may be drawn, and (N,) step of each position."""
    blocks = grid.blocks(mask.block_size, mask.ragged)
    if len({len(block) for block in blocks}) > 1:
        raise ValueError(
            "BlockCausal: random orders need blocks of one size, so that what is "
            f"predicted together stays the same; {mask.block_size} does not tile {grid}"
        )
    orders = torch.stack(blocks)[mask.orders(len(blocks))].flatten(1)
    step = torch.arange(len(blocks)).repeat_interleave(len(blocks[0]))
    return orders.to(device), step.to(device)
