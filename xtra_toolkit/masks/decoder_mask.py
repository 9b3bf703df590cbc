"""Give the decoder a mask of its own, as in AIMv2 (arXiv 2411.14402)."""

from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.masks.build import build_mask
from xtra_toolkit.objective.mask import Mask, MaskFactory
from xtra_toolkit.registry import MASKS


@MASKS.register_module()
class WithDecoderMask(MaskFactory):
    """Let the encoder follow one mask and the decoder another.

    Order, hidden tokens, context and units are those of the encoder's mask. Of the decoder's mask
    only the attention counts: which token may attend to which. The certificate follows both.

    AIMv2 is ``mask=PrefixCausal, decoder=TokenCausal``.

    Args:
        mask: Config of the encoder's mask, or a factory.
        decoder: Config of the decoder's mask, or a factory. It must be fixed. If the encoder's mask
            is random, the steps of the decoder's must not decrease along its order.

    Raises:
        ValueError: The decoder's mask is random, or one of the two is a WithDecoderMask itself.
    """

    def __init__(self, mask: dict | MaskFactory, decoder: dict | MaskFactory):
        self.mask, self.decoder = build_mask(mask), build_mask(decoder)
        self.random, self.weighted = self.mask.random, self.mask.weighted
        if self.decoder.random:
            raise ValueError(
                f"{type(self.decoder).__name__} draws at random, but the decoder's own mask must "
                "be fixed (TokenCausal, BlockCausal, Bidirectional)"
            )

    def __call__(
        self,
        grid: PatchGrid,
        batch: int = 1,
        generator: torch.Generator | None = None,
        *weights: Tensor,
    ) -> Mask:
        return self.with_decoder(self.mask(grid, batch, generator, *weights), grid)

    def for_features(self, grid: PatchGrid) -> Mask:
        """Return the features' mask of the encoder's mask."""
        return self.mask.for_features(grid)

    def extremes(self, grid: PatchGrid) -> list[Mask]:
        """Return the extreme draws of the encoder's mask."""
        return [self.with_decoder(drawn, grid) for drawn in self.mask.extremes(grid)]

    def with_context(self, grid: PatchGrid, units: int) -> Mask:
        """Make the mask whose first ``units`` units are context."""
        return self.with_decoder(self.mask.with_context(grid, units), grid)

    def with_decoder(self, mask: Mask, grid: PatchGrid) -> Mask:
        """Add to a draw of the encoder's mask what the decoder follows."""
        if mask.own_decoder:
            raise ValueError(
                f"{type(self.mask).__name__} gives the decoder a mask of its own already; give "
                "WithDecoderMask the mask of the encoder alone"
            )
        step, attend = by_token(self.decoder, grid, mask.order.device)
        step = step[mask.order]
        if attend is None and (self.random or (step.diff() >= 0).all()):
            return replace(mask, decoder_step=step)
        if attend is None:
            return replace(mask, decoder_attend=lambda q, k: step[k] <= step[q])
        return replace(mask, decoder_attend=lambda q, k: attend[mask.order[q], mask.order[k]])


@lru_cache(maxsize=64)
def by_token(
    factory: MaskFactory, grid: PatchGrid, device: torch.device
) -> tuple[Tensor, Tensor | None]:
    """Return (tokens,) the step of each token in a fixed mask, and (tokens, tokens) its predicate.

    Raises:
        ValueError: The mask does not name each token once, or is two masks.
    """
    with torch.device("cpu"):
        mask = factory(grid).check(grid, type(factory).__name__)
    if sorted(mask.order.tolist()) != list(range(grid.tokens + grid.extra)):
        raise ValueError(
            f"{type(factory).__name__} does not name each token of {grid} once, so it cannot be "
            "the decoder's own mask"
        )
    if mask.own_decoder:
        raise ValueError(
            f"{type(factory).__name__} has two masks, and a decoder follows one; name the one that "
            "it should follow"
        )
    position = mask.order.argsort()
    attend = None
    if mask.attend is not None:
        attend = mask.attention_mask()[0][position][:, position].to(device)
    return mask.step[position].to(device), attend
