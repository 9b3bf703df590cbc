"""Prefix-causal raster order: the mask of AIM (arXiv 2401.08541; apple/ml-aim at bd9e068)."""

from xtra_toolkit.masks.compose import WithPrefix
from xtra_toolkit.masks.token_causal import TokenCausal
from xtra_toolkit.registry import MASKS


@MASKS.register_module()
class PrefixCausal(WithPrefix):
    """A prefix attends to itself in full and is context; each later token attends to all before it.

    attend = k < prefix or k <= q, in raster order. Features are extracted with full attention, as
    in AIM.

    Args:
        low, high: The length of each image's prefix is drawn uniformly from ``low`` to ``high``
            tokens, both included. Default: 1 to N - 1, as in the paper.
    """

    def __init__(self, low: int = 1, high: int | None = None):
        super().__init__(TokenCausal(), low, high)
