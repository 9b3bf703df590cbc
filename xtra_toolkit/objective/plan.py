"""Plan: what the models read of a mask and the links of a target.

Shape legend: B images (1 where they share it), N positions of the sequence, G predictions of a
group, S outputs that one prediction reads, T tokens that it predicts, E encoded positions, C
computed positions, R positions that the head reads.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from xtra_toolkit.attention.pattern import Pattern


@dataclass(frozen=True)
class Group:
    """Hold the predictions of one group of links, as the head reads them.

    Args:
        source_positions: (B or 1, G, S) positions that are read.
        tokens: (B or 1, G, T) tokens that are predicted.
        loss_mask: (B or 1, G) bool, predictions that count; None if all do.
        span: (start, stop) if the sources are a contiguous run, so that no gather is needed; among
            the output positions if the plan has them.
        output_index: (B or 1, G, S) index of each source in ``Plan.output_positions``; None if all
            computed positions are output positions.
        count: () what the loss divides by, the mean over micro-batches, if it was counted over a
            whole step; None: it is counted in the batch.
        part: Index of the target whose values are predicted, in ``Target.parts``.
        draws: What the loss of the head draws at random for the images of the batch, see
            ``PredictionHead.draw``; None: nothing.
    """

    source_positions: Tensor
    tokens: Tensor
    loss_mask: Tensor | None
    span: tuple[int, int] | None = None
    output_index: Tensor | None = None
    count: Tensor | None = None
    part: int = 0
    draws: tuple[Tensor, ...] | None = None


@dataclass(frozen=True)
class Bounds:
    """Hold what is true of every draw of a mask. It is read on the host once, when compiling.

    Args:
        num_computed: Number of positions that are computed; nothing reads further.
        num_encoded: Number of them that enter the encoder.
        kinds: Kind of the attention in encoder and decoder, see :class:`Pattern`.
        host_kv_lengths: The same for ``Pattern.host_kv_lengths``; None where draws differ.
        all_in_loss: For each group, whether all predictions count in the loss.
        spans: For each group, see :class:`Group`.
        dense: (E, E) and (C, C) bool, for a mask with a predicate.
        output_positions: Positions whose output is read; None if all are.
        mask_tokens: Whether mask tokens stand for hidden tokens in the encoder.
        each_token_once: Whether the encoder holds each token of the grid once, in any order.
    """

    num_computed: int
    num_encoded: int
    kinds: tuple[str, str]
    host_kv_lengths: tuple[tuple[int, ...] | None, tuple[int, ...] | None]
    all_in_loss: tuple[bool, ...]
    spans: tuple[tuple[int, int] | None, ...]
    dense: tuple[Tensor, Tensor] | None = None
    output_positions: tuple[int, ...] | None = None
    mask_tokens: bool = False
    each_token_once: bool = False


@dataclass
class Plan:
    """Hold what backbone, neck and head read of one batch.

    Args:
        order: (B or 1, C) token at each computed position.
        encoded_positions: (B or 1, E) positions that enter the encoder; None if all do.
        encoded_tokens: (B or 1, E) the tokens at them.
        encoder, decoder: Attention patterns over the E encoded and the C computed positions.
        groups: The predictions.
        length: Number of positions before those that nothing reads were removed.
        query_tokens: (B or 1, C) token that a positioned source predicts, and one more than the
            last token's number where a position predicts nothing; None without positioned links.
        masks_per_image: Masks of each image; the batch of the encoder is smaller by this factor.
        output_positions: (1, R) positions that the head reads, all that the last layer computes;
            None: all.
        hidden: (B or 1, E) bool, encoded positions at which a mask token stands; None if hidden
            tokens are left out of the encoder.
        each_token_once: Whether the encoder holds each token of the grid once, in any order.
    """

    order: Tensor
    encoded_positions: Tensor | None
    encoded_tokens: Tensor
    encoder: Pattern
    decoder: Pattern
    groups: list[Group]
    length: int
    query_tokens: Tensor | None = None
    masks_per_image: int = 1
    output_positions: Tensor | None = None
    hidden: Tensor | None = None
    each_token_once: bool = False

    @property
    def num_computed(self) -> int:
        """Return the number of positions that are computed."""
        return self.order.shape[-1]

    @property
    def hidden_positions(self) -> Tensor:
        """Return (B or 1, C - E), the computed positions that do not enter the encoder."""
        encoded = self.encoded_positions
        seen = encoded.new_zeros(len(encoded), self.num_computed).scatter(1, encoded, 1)
        return seen.argsort(dim=1, stable=True)[:, : self.num_computed - encoded.shape[1]]

    def cross(self) -> Pattern:
        """Return the attention of the R output positions over the E encoded positions.

        A position attends to what the decoder's pattern lets it see of them (CrossDecoder).
        """
        return self.decoder.cached(("cross",), self._cross)

    def _cross(self) -> Pattern:
        rows, encoded = self.decoder, self.encoded_positions
        if self.output_positions is not None:
            rows = rows.rows(self.output_positions)
        if encoded is None:
            return rows
        count, queries = encoded.shape[1], rows.queries or rows.length
        if rows.kind == "full":
            return Pattern("full", count, queries=queries)
        if rows.kind == "dense":
            index = encoded[:, None].expand(-1, queries, -1)
            mask = rows.mask.expand(len(index), -1, -1).gather(2, index)
            return Pattern("dense", count, mask=mask, queries=queries)
        kv_lengths = rows.kv_lengths
        if rows.kind == "causal":
            kv_lengths = torch.arange(queries, device=encoded.device)[None] + 1
        batch = max(len(kv_lengths), len(encoded))
        kv_lengths = torch.searchsorted(  # encoded positions ascend
            encoded.expand(batch, -1).contiguous(), kv_lengths.expand(batch, -1).contiguous()
        )
        torch._assert_async((kv_lengths > 0).all(), "a mask token sees nothing of the encoder")
        return Pattern("staircase", count, kv_lengths, queries=queries)


@dataclass
class Features:
    """Hold what an encoder reads when it is probed.

    Args:
        order: (1, N) token at each position, every token of the grid once.
        pattern: Attention over the N positions.
        raster: (1, N) position of each token, those without pixels first, then in raster order.
    """

    order: Tensor
    pattern: Pattern
    raster: Tensor

    def to(self, device: torch.device | str) -> "Features":
        """Return the same on another device."""
        return Features(self.order.to(device), self.pattern.to(device), self.raster.to(device))
