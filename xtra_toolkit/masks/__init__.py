"""Masks: the order of the tokens, which may attend to which, and which enter the encoder."""

from xtra_toolkit.masks.bidirectional import Bidirectional
from xtra_toolkit.masks.block_causal import BlockCausal
from xtra_toolkit.masks.build import build_mask
from xtra_toolkit.masks.compose import Reordered, WithPrefix
from xtra_toolkit.masks.decoder_mask import WithDecoderMask
from xtra_toolkit.masks.hidden_blocks import HiddenBlocks
from xtra_toolkit.masks.prefix_causal import PrefixCausal
from xtra_toolkit.masks.random_shown import RandomShown
from xtra_toolkit.masks.rng import mask_rng
from xtra_toolkit.masks.token_causal import TokenCausal
from xtra_toolkit.masks.unit_order import UnitOrder
from xtra_toolkit.objective.mask import Mask, MaskFactory

__all__ = [
    "Bidirectional",
    "BlockCausal",
    "HiddenBlocks",
    "Mask",
    "MaskFactory",
    "PrefixCausal",
    "RandomShown",
    "Reordered",
    "TokenCausal",
    "UnitOrder",
    "WithDecoderMask",
    "WithPrefix",
    "build_mask",
    "mask_rng",
]
