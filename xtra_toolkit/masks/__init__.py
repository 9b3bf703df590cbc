"""Masks: in which order the tokens come, which may see which, which are shown at all."""

from xtra_toolkit.masks.bidirectional import Bidirectional
from xtra_toolkit.masks.block_causal import BlockCausal
from xtra_toolkit.masks.build import build_mask
from xtra_toolkit.masks.compose import Reordered, WithPrefix
from xtra_toolkit.masks.drawing import draws
from xtra_toolkit.masks.mask import Mask
from xtra_toolkit.masks.prefix_causal import PrefixCausal
from xtra_toolkit.masks.random_shown import RandomShown
from xtra_toolkit.masks.token_causal import TokenCausal

__all__ = [
    "Bidirectional",
    "BlockCausal",
    "Mask",
    "PrefixCausal",
    "RandomShown",
    "Reordered",
    "TokenCausal",
    "WithPrefix",
    "build_mask",
    "draws",
]
