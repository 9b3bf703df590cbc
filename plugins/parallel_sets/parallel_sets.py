"""Sets of tokens that are predicted in parallel, one set after another: SAR, RandAR and RandSAC.

Shape legend: B images, N positions of the other mask; the sequence has 2N.
"""

from functools import lru_cache

import torch
from torch import Tensor

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.masks import Bidirectional, Mask, MaskFactory, build_mask, mask_rng
from xtra_toolkit.registry import MASKS


@MASKS.register_module()
class ParallelSets(MaskFactory):
    """Predict the tokens of a set in parallel, each from a query that sees all earlier sets.

    The steps of another mask are the sets, or several of them are joined to a set of drawn size.
    The sequence holds each token twice: the queries of set 2, set 2, the queries of set 3, set 3,
    and so on. A query is a hidden token: a mask token with the position of its token stands for it,
    in the decoder or (``MaskedViT(mask_tokens=True)``) in the encoder. A query attends to the
    queries of its set and to all before them, a token to the tokens of its set and to all before
    them. Nothing can predict the first set, so it is context, and comes before its queries.

    The links are the same in every draw, since a query is read at the position of its own target
    (``MaskedPatches``).

    Args:
        mask: Config of a mask, or a factory. Its order is kept, and its steps are the sets. All
            its tokens must be visible.
        num_sets: (low, high). The number of sets of each image is drawn uniformly from ``low`` to
            ``high``, both included, and then where its steps are cut into so many sets, each
            possible cut being as likely. None: each step is a set.

    Raises:
        ValueError: ``num_sets`` does not fit the steps of the mask, or the mask hides tokens.
    """

    def __init__(self, mask: dict | MaskFactory, num_sets: tuple[int, int] | None = None):
        self.mask, self.num_sets = build_mask(mask), num_sets
        self.random = self.mask.random or num_sets is not None

    def __call__(
        self, grid: PatchGrid, batch: int = 1, generator: torch.Generator | None = None
    ) -> Mask:
        if self.num_sets is None:
            return self.with_sets(grid, batch, generator, None)
        low, high = self.bounds(grid)
        count = mask_rng(generator).randint(low, high + 1, (batch, 1))
        return self.with_sets(grid, batch, generator, count)

    def with_sets(
        self,
        grid: PatchGrid,
        batch: int,
        generator: torch.Generator | None,
        count: Tensor | None,
    ) -> Mask:
        """Make the mask of given numbers of sets, (B, 1); None: each step is a set."""
        rng = mask_rng(generator)
        if self.mask.random:
            mask = self.mask(grid, batch, generator)
        else:
            mask = _on_device(self.mask, grid, rng.device)
        self._check(mask, grid)
        starts = torch.nn.functional.pad(mask.step.diff(dim=-1) > 0, (1, 0))
        if count is not None:
            noise = rng.rand(batch, len(mask)).masked_fill(~starts, 2.0)  # above all others
            starts = starts & (noise.argsort(1).argsort(1) < count.to(rng.device) - 1)
        return with_queries(mask, starts.cumsum(-1))

    def for_features(self, grid: PatchGrid) -> Mask:
        """Return full attention over the whole image."""
        return Bidirectional()(grid)

    def extremes(self, grid: PatchGrid) -> list[Mask]:
        """Return draws with the fewest and with the most sets."""
        if self.num_sets is None:
            return []
        counts = (torch.tensor([[count]]) for count in self.bounds(grid))
        return [self.with_sets(grid, 1, None, count) for count in counts]

    def bounds(self, grid: PatchGrid) -> tuple[int, int]:
        """Return the smallest and the largest number of sets on this grid."""
        steps = _count_steps(self.mask, grid)
        low, high = self.num_sets
        if not 2 <= low <= high <= steps:
            raise ValueError(
                f"ParallelSets was given num_sets=({low}, {high}); {type(self.mask).__name__} "
                f"makes {steps} steps on {grid}, which allows 2 to {steps} sets: the first one is "
                "not predicted"
            )
        return low, high

    def _check(self, mask: Mask, grid: PatchGrid) -> None:
        grid.no_extra("ParallelSets")
        if mask.visible is not None or mask.attend is not None:
            raise ValueError(
                f"ParallelSets was given {type(self.mask).__name__}, which hides tokens or has a "
                "predicate; it needs a mask of steps that shows all tokens, such as TokenCausal, "
                "BlockCausal or Reordered"
            )


def with_queries(mask: Mask, sets: Tensor) -> Mask:
    """Put a query of each token in front of its set, or behind it if that is the first set.

    Args:
        mask: A mask whose tokens are all visible.
        sets: (N,) or (B, N) the set of each position, from 0 and never decreasing.

    Returns:
        A mask of 2N positions.
    """
    queries, tokens = (2 * sets).clamp(min=1), (2 * sets + 1) * (sets > 0)
    step = torch.cat([queries, tokens], -1)
    step, position = step.sort(dim=-1, stable=True)
    visible, position = position >= len(mask), position % len(mask)
    if sets.ndim == 1:
        order = mask.order[..., position]
    else:
        order = mask.order.expand(len(sets), -1).gather(1, position)
    return Mask(order=order, step=step, visible=visible, context=visible | (step < 2))


@lru_cache(maxsize=64)
def _on_device(mask: MaskFactory, grid: PatchGrid, device: torch.device) -> Mask:
    """Return a fixed mask on a device; it is copied once."""
    with torch.device("cpu"):
        return mask(grid).to(device)


@lru_cache(maxsize=64)
def _count_steps(mask: MaskFactory, grid: PatchGrid) -> int:
    with torch.device("cpu"):
        return len(torch.atleast_2d(mask(grid).step)[0].unique())
