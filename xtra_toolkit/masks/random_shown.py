"""A random part of the image is visible: the mask of MAE (arXiv 2111.06377).

The code of MAE is facebookresearch/mae at efb2a80.
"""

import torch

from xtra_toolkit.grid import PatchGrid
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
    """

    random = True

    def __init__(self, mask_ratio: float = 0.75):
        if not 0 < mask_ratio < 1:
            raise ValueError(f"mask_ratio={mask_ratio} was given; it must lie between 0 and 1")
        self.mask_ratio = mask_ratio

    def __call__(
        self, grid: PatchGrid, batch: int = 1, generator: torch.Generator | None = None
    ) -> Mask:
        num_visible = int(grid.tokens * (1 - self.mask_ratio))
        if not num_visible:
            raise ValueError(
                f"RandomShown(mask_ratio={self.mask_ratio}) shows no patch of {grid}; at least one "
                f"is shown up to mask_ratio={1 - 1 / grid.tokens:.3f}"
            )
        g = mask_rng(generator)
        order = g.rand(batch, grid.tokens).argsort(dim=1, stable=True)
        if grid.extra:
            extra = torch.arange(grid.extra, device=g.device) + grid.tokens
            order = torch.cat([extra.expand(batch, -1), order], dim=1)
        position = torch.arange(order.shape[1], device=g.device)
        visible = position < grid.extra + num_visible
        return Mask(order=order, step=torch.zeros_like(position), visible=visible, context=visible)

    def for_features(self, grid: PatchGrid) -> Mask:
        """Return full attention over the whole image, as MAE does when it is probed."""
        return Bidirectional()(grid)
