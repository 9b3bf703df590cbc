"""Masked patches: the output at a hidden position predicts that position (MAE, BEiT, SimMIM)."""

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.objective.links import Links
from xtra_toolkit.objective.mask import Mask
from xtra_toolkit.registry import MODELS
from xtra_toolkit.targets.pixels import PixelTarget


@MODELS.register_module()
class MaskedPatches(PixelTarget):
    """Each hidden token predicts itself (MAE, arXiv 2111.06377)."""

    def pairs(self, mask: Mask, grid: PatchGrid) -> list[Links]:
        """Return one group: each hidden position predicts itself.

        Raises:
            ValueError: The mask hides nothing, or hides other positions in each image.
        """
        if mask.visible is None or mask.visible.all():
            raise ValueError(
                "MaskedPatches predicts hidden tokens, and this mask shows every token; use a "
                "mask that hides some (RandomShown), or predict what comes next (NextToken, "
                "NextBlock)"
            )
        if mask.visible.ndim > 1:
            raise ValueError(
                "MaskedPatches needs hidden tokens at the same sequence positions in every "
                "image; let the mask put the visible tokens first in its `order`"
            )
        hidden = (~mask.visible).nonzero().view(1, -1, 1)
        return [Links(hidden, hidden)]
