"""Random visible patches: the mask of MAE (arXiv 2111.06377).

The code of MAE is facebookresearch/mae at efb2a80.
"""

import torch
from einops import rearrange
from torch import Tensor

from xtra_toolkit.grid import PatchGrid, pair
from xtra_toolkit.masks.bidirectional import Bidirectional
from xtra_toolkit.masks.ratio import MaskRatio, count_hidden, extreme_ratios
from xtra_toolkit.masks.rng import MaskRNG, mask_rng
from xtra_toolkit.objective.mask import Mask, MaskFactory
from xtra_toolkit.registry import MASKS


@MASKS.register_module()
class RandomShown(MaskFactory):
    """Draw an order for each image. Its first tokens are visible and context, the others hidden.

    attend = True, among the visible tokens in the encoder and among all tokens in the decoder. A
    class token comes first and is visible.

    Args:
        mask_ratio: Share of the tokens that is hidden. A dict draws it, see :class:`MaskRatio`:
            ``dict(low=0.7, high=1.0, mean=1.0, std=0.25)`` is MAR's (arXiv 2406.11838). With
            ``high=1`` an image may hide all patches, which needs a class token.
        block_size: Tokens along each side of the blocks that are hidden as a whole, or (height,
            width): 2 for SimMIM's squares of 32 px and patches of 16 (arXiv 2111.09886), 4 for
            Pixio (arXiv 2512.15715).
    """

    random = True

    def __init__(self, mask_ratio: float | dict = 0.75, block_size: int | tuple[int, int] = 1):
        self.drawn = MaskRatio.of(mask_ratio)
        number = isinstance(mask_ratio, int | float)
        if self.drawn is None and not (number and 0 < mask_ratio < 1):
            raise ValueError(
                f"mask_ratio={mask_ratio!r} was given; it is a number between 0 and 1, or a dict"
            )
        self.mask_ratio, self.block_size = mask_ratio, pair(block_size)

    def __call__(
        self, grid: PatchGrid, batch: int = 1, generator: torch.Generator | None = None
    ) -> Mask:
        rng = mask_rng(generator)
        return self.draw(grid, batch, rng, self.drawn and self.drawn.draw(rng, batch))

    def draw(self, grid: PatchGrid, batch: int, rng: MaskRNG, ratio: Tensor | None) -> Mask:
        """Draw the mask under drawn ratios, (B or 1, 1)."""
        h, w = self.block_size
        tokens = torch.arange(grid.tokens, device=rng.device)
        if (h, w) == (1, 1):
            blocks = tokens[:, None]
        else:
            grid.blocks(self.block_size)  # checks that blocks tile the grid
            blocks = rearrange(tokens, "(r h c w) -> (r c) (h w)", h=h, w=w, c=grid.cols // w)
        num_visible = self._num_visible(grid, len(blocks))
        if ratio is not None:
            num_visible = len(blocks) - count_hidden(ratio, len(blocks)).to(rng.device)
        order = rng.rand(batch, len(blocks)).argsort(dim=1, stable=True)
        return visible_first(grid, blocks[order].flatten(1), num_visible * h * w)

    def extremes(self, grid: PatchGrid) -> list[Mask]:
        """Return draws of the smallest and of the largest ratio, if it is drawn."""
        return extreme_ratios(self.drawn, lambda *drawn: self.draw(grid, 1, *drawn))

    def _num_visible(self, grid: PatchGrid, blocks: int) -> int:
        """Return the number of visible blocks, the smallest one if it is drawn."""
        if self.drawn is None:
            num_visible = int(blocks * (1 - self.mask_ratio))
        else:
            num_visible = blocks - self.drawn.most(blocks)
        if not num_visible and not (self.drawn and grid.extra):
            ratio = self.mask_ratio if self.drawn is None else self.drawn
            class_token = ", or with a class token" if self.drawn else ""
            raise ValueError(
                f"RandomShown(mask_ratio={ratio}) shows no patch of {grid}; at least one "
                f"{'is' if self.block_size == (1, 1) else 'block is'} shown up to "
                f"mask_ratio={1 - 1 / blocks:.3f}{class_token}"
            )
        return num_visible

    def for_features(self, grid: PatchGrid) -> Mask:
        """Return full attention over the whole image, as MAE does when it is probed."""
        return Bidirectional()(grid)


def visible_first(grid: PatchGrid, order: Tensor, num_visible: int | Tensor) -> Mask:
    """Make the mask of an order (B, tokens) whose first tokens are visible and context.

    All steps are equal. Tokens without pixels are added in front, and are visible.

    Args:
        grid: The grid of the images.
        order: (B, tokens) token at each position.
        num_visible: Number of visible tokens with pixels; (B or 1, 1) if it is drawn.
    """
    if grid.extra:
        extra = torch.arange(grid.extra, device=order.device) + grid.tokens
        order = torch.cat([extra.expand(len(order), -1), order], dim=1)
    position = torch.arange(order.shape[1], device=order.device)
    visible = position < grid.extra + num_visible
    return Mask(order=order, step=torch.zeros_like(position), visible=visible, context=visible)
