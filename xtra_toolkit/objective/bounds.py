"""Bounds: what holds for every draw of a mask, computed on the host when a pair is compiled."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.objective.links import Links, compute_loss_mask, gather_positions
from xtra_toolkit.objective.mask import Mask
from xtra_toolkit.objective.plan import Bounds
from xtra_toolkit.objective.reach import Depth, Reach, compute_kv_lengths, trace_reach


def compute_bounds(
    samples: list[Mask],
    links: list[Links],
    grid: PatchGrid,
    depth: Depth,
    random: bool,
    mask_tokens: bool = False,
) -> Bounds:
    """Compute what holds for all draws.

    Args:
        samples: Sampled and extreme draws.
        links: The predictions.
        grid: The grid of the images.
        depth: Layers of the encoder and of the decoder.
        random: Whether the mask draws; any source may then come to count.
        mask_tokens: Whether mask tokens stand for hidden tokens in the encoder.

    Raises:
        ValueError: The draws cannot be served; the message says why.
    """
    reaches = [trace_reach(m, g, grid, depth, mask_tokens) for m in samples for g in links]
    if mask_tokens:
        samples = [replace(mask, visible=None) for mask in samples]  # all positions are encoded
    num_computed = _num_computed(samples, links, reaches, random)
    counts = {
        int(count)
        for mask in samples
        for count in torch.atleast_2d(mask.visible_or_all())[:, :num_computed].sum(-1)
    }
    if len(counts) != 1:
        raise ValueError(
            f"each draw must show equally many tokens; this mask shows {min(counts)} to "
            f"{max(counts)}; an encoder with mask tokens (backbone.mask_tokens=True) allows other "
            "numbers"
        )
    kinds, kv_lengths = zip(*(_attention(mask, num_computed) for mask in samples), strict=True)
    output_positions = _output_positions(links, num_computed)
    return Bounds(
        num_computed,
        counts.pop(),
        tuple(k[0] if len(set(k)) == 1 else "staircase" for k in zip(*kinds, strict=True)),
        tuple(s[0] if len(set(s)) == 1 else None for s in zip(*kv_lengths, strict=True)),
        tuple(all(bool(compute_loss_mask(m, group).all()) for m in samples) for group in links),
        tuple(_span(group, output_positions) for group in links),
        _dense(samples[0], num_computed) if samples[0].has_predicate else None,
        output_positions,
        mask_tokens,
        _each_token_once(samples, grid, num_computed),
    )


def kind_of(kv_lengths: Tensor) -> str:
    """Return the kind of a staircase, 'full', 'causal' or 'staircase', read on the host."""
    length = kv_lengths.shape[1]
    if (kv_lengths == length).all():
        return "full"
    return "causal" if (kv_lengths == torch.arange(length) + 1).all() else "staircase"


def _num_computed(
    samples: list[Mask], links: list[Links], reaches: list[Reach], random: bool
) -> int:
    if any(mask.visible_or_all().ndim > 1 for mask in samples):
        return len(samples[0])  # images differ in how many visible tokens lie before a position
    num_computed = max(int(reach.lengths.max()) for reach in reaches)
    if random:
        last = max(int(group.source_positions.max()) for group in links)
        num_computed = max(num_computed, 1 + last)
    return num_computed


def _attention(mask: Mask, num_computed: int) -> tuple[tuple, tuple]:
    """Return the kinds and the kv lengths of encoder and decoder (None where images differ)."""
    if mask.has_predicate:
        return ("dense", "dense"), (None, None)
    visible = torch.atleast_2d(mask.visible_or_all())[:, :num_computed]
    encoder, decoder = (
        compute_kv_lengths(part)[:, :num_computed].clamp(max=num_computed)
        for part in (mask, mask.of_decoder())
    )
    if len(visible) > 1:
        return ("staircase", kind_of(decoder)), (None, _shared(decoder))
    before = nn.functional.pad(visible.long().cumsum(1), (1, 0))
    images = len(encoder)
    encoder = gather_positions(before, encoder)[visible.expand(images, -1)].view(images, -1)
    return (kind_of(encoder), kind_of(decoder)), (_shared(encoder), _shared(decoder))


def _shared(kv_lengths: Tensor) -> tuple[int, ...] | None:
    return tuple(kv_lengths[0].tolist()) if (kv_lengths == kv_lengths[:1]).all() else None


def _each_token_once(samples: list[Mask], grid: PatchGrid, num_computed: int) -> bool:
    tokens = torch.arange(grid.tokens + grid.extra)
    return num_computed == len(tokens) and all(
        len(mask) == len(tokens)
        and bool(mask.visible_or_all().all())
        and bool((torch.atleast_2d(mask.order).sort(1).values == tokens).all())
        for mask in samples
    )


def _output_positions(links: list[Links], num_computed: int) -> tuple[int, ...] | None:
    positions = sorted({p for group in links for p in group.source_positions.flatten().tolist()})
    return None if len(positions) == num_computed else tuple(positions)


def _span(links: Links, output_positions: tuple[int, ...] | None) -> tuple[int, int] | None:
    flat = links.source_positions.flatten(1)
    if output_positions is not None:
        flat = torch.searchsorted(torch.tensor(output_positions), flat)
    start = int(flat[0, 0])
    run = torch.arange(start, start + flat.shape[1])
    return (start, start + len(run)) if len(flat) == 1 and (flat[0] == run).all() else None


def _dense(mask: Mask, num_computed: int) -> tuple[Tensor, Tensor]:
    encoder, decoder = (
        part.attention_mask()[0, :num_computed, :num_computed] for part in (mask, mask.of_decoder())
    )
    visible = mask.visible_or_all()[:num_computed]
    dense = encoder[visible][:, visible], decoder
    for part, rows in zip(("encoder", "decoder"), dense, strict=True):
        if not rows.any(-1).all():
            row = int((~rows.any(-1)).nonzero()[0])
            raise ValueError(
                f"in the {part}, row {row} of the predicate may attend to nothing that is visible "
                "and computed, and attention would return zeros for it without a warning; let each "
                "position see itself"
            )
    return dense
