"""Blocks of many sizes are hidden: the mask of BEiT (arXiv 2106.08254), MaskFeat and EVA-02."""

import math

import torch
from torch import Tensor

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.masks.bidirectional import Bidirectional
from xtra_toolkit.masks.random_shown import visible_first
from xtra_toolkit.masks.ratio import MaskRatio, count_hidden, extreme_ratios
from xtra_toolkit.masks.rng import MaskRNG, mask_rng
from xtra_toolkit.objective.mask import Mask, MaskFactory
from xtra_toolkit.registry import MASKS

CHUNK, MOST = 16, 2_000  # tries that are drawn at once, and at most; 4,096 images took 272


@MASKS.register_module()
class HiddenBlocks(MaskFactory):
    """Hide rectangles of random size and shape until ``num_hidden`` tokens are hidden.

    Each try draws the area of a rectangle uniformly from ``min_block`` tokens to the number of
    tokens that are still to be hidden, then the logarithm of its height / width, then its place. It
    is taken if it hides one more token or several, and no more than are wanted. The visible tokens
    come first, in raster order, and are context; the hidden ones follow. attend = True.

    The host reads once for each 16 tries whether all images are done.

    Args:
        num_hidden: Number of tokens that are hidden. A dict draws their share, see
            :class:`MaskRatio`.
        min_block: Smallest area of a rectangle in tokens, if so many are still to be hidden.
        max_block: Largest area. Default: all that is still to be hidden.
        min_aspect: Height / width lies between this and its inverse.
        edge: Whether rectangles may reach the last row and the last column, as in the original
            (microsoft/unilm). MMPretrain 1.2's BEiTMaskGenerator, edge=False, never hides those.
    """

    random = True

    def __init__(
        self,
        num_hidden: int | dict,
        min_block: int = 16,
        max_block: int | None = None,
        min_aspect: float = 0.3,
        edge: bool = True,
    ):
        if not 0 < min_aspect <= 1:
            raise ValueError(f"min_aspect={min_aspect} was given; it must lie between 0 and 1")
        self.num_hidden, self.min_block, self.max_block = num_hidden, min_block, max_block
        self.drawn = MaskRatio.of(num_hidden)
        self.log_aspect, self.edge = -math.log(min_aspect), edge

    def __call__(
        self, grid: PatchGrid, batch: int = 1, generator: torch.Generator | None = None
    ) -> Mask:
        rng = mask_rng(generator)
        return self.draw(grid, batch, rng, self.drawn and self.drawn.draw(rng, batch))

    def draw(self, grid: PatchGrid, batch: int, rng: MaskRNG, ratio: Tensor | None) -> Mask:
        """Draw the mask under drawn ratios, (B or 1, 1)."""
        most, tries = self._check(grid), 0
        num_hidden = self.num_hidden if ratio is None else count_hidden(ratio, grid.tokens)
        num_hidden = torch.as_tensor(num_hidden, device=rng.device).view(-1, 1)
        hidden = torch.zeros(batch, grid.rows, grid.cols, dtype=torch.bool, device=rng.device)
        while (hidden.sum((1, 2)) < num_hidden[:, 0]).any():
            if tries >= MOST:
                raise ValueError(
                    f"HiddenBlocks found no way to hide {most} tokens of {grid} by rectangles of "
                    f"{self.min_block} to {self.max_block or most} tokens; make min_block smaller"
                )
            for numbers in rng.rand(batch, CHUNK, 4).double().unbind(1):
                hidden = hidden | self.rectangle(hidden, numbers, num_hidden[:, 0])
            tries += CHUNK
        order = hidden.flatten(1).byte().argsort(dim=1, stable=True)
        num_visible = grid.tokens - (self.num_hidden if ratio is None else num_hidden)
        return visible_first(grid, order, num_visible)

    def extremes(self, grid: PatchGrid) -> list[Mask]:
        """Return draws of the smallest and of the largest ratio, if it is drawn."""
        return extreme_ratios(self.drawn, lambda *drawn: self.draw(grid, 1, *drawn))

    def rectangle(self, hidden: Tensor, numbers: Tensor, num_hidden: Tensor) -> Tensor:
        """Return what one try hides, (B, rows, cols) bool.

        Args:
            hidden: (B, rows, cols) bool, what is hidden already.
            numbers: (B, 4) from 0 to 1, for the area, the aspect, the row and the column.
            num_hidden: (B or 1,) number of tokens that are to be hidden.
        """
        (_, rows, cols), device = hidden.shape, hidden.device
        area, aspect, top, left = numbers.unbind(1)
        limit = num_hidden - hidden.sum((1, 2))
        if self.max_block is not None:
            limit = limit.clamp(max=self.max_block)
        area = self.min_block + (limit - self.min_block) * area
        aspect = torch.exp(self.log_aspect * (2 * aspect - 1))
        height, width = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
        fits = (height < rows) & (width < cols)
        inside = []
        for start, size, count in ((top, height, rows), (left, width, cols)):
            start = (start * (count - size + self.edge)).floor()[:, None]
            at = torch.arange(count, device=device)
            inside.append((at >= start) & (at < start + size[:, None]))
        rectangle = inside[0][:, :, None] & inside[1][:, None, :]
        new = (rectangle & ~hidden).sum((1, 2))
        taken = fits & (new > 0) & (new <= limit)
        return rectangle & taken[:, None, None]

    def for_features(self, grid: PatchGrid) -> Mask:
        """Return full attention over the whole image."""
        return Bidirectional()(grid)

    def _check(self, grid: PatchGrid) -> int:
        """Return the largest number of tokens that is hidden."""
        reachable = (grid.rows - (not self.edge)) * (grid.cols - (not self.edge))
        most = min(reachable, grid.tokens - 1)
        given = self.num_hidden if self.drawn is None else self.drawn.most(grid.tokens)
        largest = given if self.max_block is None else self.max_block
        if not (isinstance(given, int) and 1 <= given <= most and 1 <= self.min_block <= largest):
            raise ValueError(
                f"HiddenBlocks was given num_hidden={given} and rectangles of "
                f"{self.min_block} to {largest} tokens; on {grid} it can hide 1 to {most} "
                "tokens (a whole number), and min_block is 1 or more and at most max_block"
            )
        return given
