"""Random visible patches: the mask of MAE (arXiv 2111.06377).

The code of MAE is facebookresearch/mae at efb2a80.
"""

import torch
from einops import rearrange
from torch import Tensor

from xtra_toolkit.grid import PatchGrid, pair
from xtra_toolkit.masks.bidirectional import Bidirectional
from xtra_toolkit.masks.rng import mask_rng
from xtra_toolkit.objective.mask import Mask, MaskFactory
from xtra_toolkit.registry import MASKS


@MASKS.register_module()
class RandomShown(MaskFactory):
    """Draw an order for each image. Its first tokens are visible and context, the others hidden.

    attend = True, among the visible tokens in the encoder and among all tokens in the decoder. A
    class token comes first and is visible.

    Args:
        mask_ratio: Share of the tokens that is hidden.
        block_size: Tokens along each side of the blocks that are hidden as a whole, or (height,
            width): 2 for SimMIM's squares of 32 px and patches of 16 (arXiv 2111.09886), 4 for
            Pixio (arXiv 2512.15715).
    """

    random = True

    def __init__(self, mask_ratio: float = 0.75, block_size: int | tuple[int, int] = 1):
        if not 0 < mask_ratio < 1:
            raise ValueError(f"mask_ratio={mask_ratio} was given; it must lie between 0 and 1")
        self.mask_ratio, self.block_size = mask_ratio, pair(block_size)

    def __call__(
        self, grid: PatchGrid, batch: int = 1, generator: torch.Generator | None = None
    ) -> Mask:
        g, (h, w) = mask_rng(generator), self.block_size
        tokens = torch.arange(grid.tokens, device=g.device)
        if (h, w) == (1, 1):
            blocks = tokens[:, None]
        else:
            grid.blocks(self.block_size)  # checks that blocks tile the grid
            blocks = rearrange(tokens, "(r h c w) -> (r c) (h w)", h=h, w=w, c=grid.cols // w)
        num_visible = int(len(blocks) * (1 - self.mask_ratio))
        if not num_visible:
            raise ValueError(
                f"RandomShown(mask_ratio={self.mask_ratio}) shows no patch of {grid}; at least one "
                f"{'is' if h == w == 1 else 'block is'} shown up to "
                f"mask_ratio={1 - 1 / len(blocks):.3f}"
            )
        order = g.rand(batch, len(blocks)).argsort(dim=1, stable=True)
        return visible_first(grid, blocks[order].flatten(1), num_visible * h * w)

    def for_features(self, grid: PatchGrid) -> Mask:
        """Return full attention over the whole image, as MAE does when it is probed."""
        return Bidirectional()(grid)


def visible_first(grid: PatchGrid, order: Tensor, num_visible: int) -> Mask:
    """Make the mask of an order (B, tokens) whose first tokens are visible and context.

    All steps are equal. Tokens without pixels are added in front, and are visible.
    """
    if grid.extra:
        extra = torch.arange(grid.extra, device=order.device) + grid.tokens
        order = torch.cat([extra.expand(len(order), -1), order], dim=1)
    position = torch.arange(order.shape[1], device=order.device)
    visible = position < grid.extra + num_visible
    return Mask(order=order, step=torch.zeros_like(position), visible=visible, context=visible)
