"""Masked patches: the output at a hidden position predicts that position (MAE, BEiT, SimMIM)."""

import torch

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.objective.links import Links
from xtra_toolkit.objective.mask import Mask
from xtra_toolkit.registry import MODELS
from xtra_toolkit.targets.pixels import PixelTarget


@MODELS.register_module()
class MaskedPatches(PixelTarget):
    """Predict each hidden token at its own position (MAE, arXiv 2111.06377).

    Args:
        normalise: See :class:`PixelTarget`.
        share: Share of the hidden positions that is predicted, the last ones of the sequence
            (CrossMAE, arXiv 2401.14391). Under RandomShown these are random tokens.

    Raises:
        ValueError: The share is not above 0 and at most 1.
    """

    def __init__(self, normalise: bool = True, share: float = 1.0):
        super().__init__(normalise)
        if not 0 < share <= 1:
            raise ValueError(f"share={share} was given; it must be above 0 and at most 1")
        self.share = share

    def pairs(self, mask: Mask, grid: PatchGrid) -> list[Links]:
        """Return one group: each hidden position predicts itself.

        If images hide other positions, each position of a patch predicts itself, and those that
        are visible must be context, which the loss leaves out.

        Raises:
            ValueError: The mask hides nothing, visible positions are no context, or a share is to
                be predicted and images hide other positions.
        """
        if mask.visible is None or mask.visible.all():
            raise ValueError(
                "MaskedPatches predicts hidden tokens, and this mask shows every token; use a "
                "mask that hides some (RandomShown), or predict what comes next (NextToken, "
                "NextBlock)"
            )
        predicted = ~mask.visible
        if mask.visible.ndim > 1:
            if mask.context is None or (mask.visible & ~mask.context).any():
                raise ValueError(
                    "MaskedPatches predicts hidden tokens, and this mask hides other positions in "
                    "each image; let it put the visible tokens first in its `order`, or make them "
                    "`context`, so that the loss leaves them out"
                )
            predicted = (torch.atleast_2d(mask.order) < grid.tokens).all(0)
            if self.share < 1:
                raise ValueError(
                    f"MaskedPatches(share={self.share}) predicts the last hidden positions, and "
                    "this mask hides other positions in each image; let it put the visible tokens "
                    "first in its `order` (RandomShown)"
                )
        predicted = predicted.nonzero().view(1, -1, 1)
        predicted = predicted[:, -max(1, round(self.share * predicted.shape[1])) :]
        return [Links(predicted, predicted)]
