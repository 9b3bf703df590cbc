"""Plan: a mask and the links of a target, compiled into what the models read.

Shape legend: B images (1 where they share it), N positions of the sequence, G predictions of a
group, S outputs that one prediction reads, T tokens that it predicts, E encoded positions.
"""

from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from xtra_toolkit.attention.pattern import Pattern
from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.objective.mask import Mask


@dataclass(frozen=True)
class Links:
    """A group of predictions of one shape, with a head of its own.

    Args:
        sources: (B or 1, G, S) positions whose outputs, concatenated, make the prediction.
        targets: (B or 1, G, T) positions whose tokens are predicted.
        sees_target: the target means to predict what is seen (a teacher's features at seen
            tokens); the certificate says so instead of refusing it.
        positioned: each source is told the position of its target, the first of the first and so
            on, by an embedding that the decoder adds there (a positioned query; σ-GPT, arXiv
            2404.09562). What an order that differs between images needs.
    """

    source_positions: Tensor
    target_positions: Tensor
    sees_target: bool = False
    positioned: bool = False

    def to(self, device: torch.device | str) -> "Links":
        """The same links on another device."""
        return replace(
            self,
            source_positions=self.source_positions.to(device),
            target_positions=self.target_positions.to(device),
        )


@dataclass(frozen=True)
class Group:
    """Links as the models read them.

    Args:
        sources: (B or 1, G, S) positions.
        tokens: (B or 1, G, T) tokens that are predicted.
        live: (B or 1, G) bool, what counts; None where all do.
        span: (start, stop) where the sources are a run of positions, read without a gather; among
            those that are read, where the plan says so.
        output_index: (B or 1, G, S) the sources' places in ``Plan.read``; None where all are read.
        count: () what the loss divides by, of a micro-batch on average, where it was counted over
            a whole step; None: the batch's own.
    """

    source_positions: Tensor
    tokens: Tensor
    loss_mask: Tensor | None
    span: tuple[int, int] | None = None
    output_index: Tensor | None = None
    count: Tensor | None = None


@dataclass(frozen=True)
class Bounds:
    """What holds for every draw of a mask, read once on the host: compiling asks no device.

    Args:
        keep: positions that are computed; nothing reads further.
        num_encoded: how many of them hold pixels in the encoder.
        kinds, stairs: of the attention in encoder and decoder, see :class:`Pattern`.
        all_live: for each group, whether all its predictions count.
        spans: for each group, see :class:`Group`.
        dense: (E, E) and (keep, keep) bool, for a mask with a predicate.
        read: positions whose output is a source; None where all are.
    """

    num_computed: int
    num_encoded: int
    kinds: tuple[str, str]
    host_kv_lengths: tuple[tuple[int, ...] | None, tuple[int, ...] | None]
    all_in_loss: tuple[bool, ...]
    spans: tuple[tuple[int, int] | None, ...]
    dense: tuple[Tensor, Tensor] | None = None
    output_positions: tuple[int, ...] | None = None


@dataclass
class Plan:
    """What the models read.

    Args:
        order: (B or 1, keep) token at each computed position.
        encoded_positions: (B or 1, E) positions that hold pixels in the encoder; None where all do.
        encoded_tokens: (B or 1, E) the tokens at them.
        encoder, decoder: attention patterns over E and over keep positions.
        groups: the predictions.
        length: positions before dead work was removed.
        asked: (B or 1, keep) the token that a positioned source predicts, one more than the last
            token's number where none is; None without positioned links.
        copies: masks of each image; the encoder's rows are a ``copies``-th of the others.
        read: (1, R) positions that the head reads, all that the last layer computes; None: all.
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

    @property
    def num_computed(self) -> int:
        """Positions that are computed."""
        return self.order.shape[-1]


def gather_positions(values: Tensor, index: Tensor) -> Tensor:
    """values (B or 1, N) at index (B or 1, …), broadcast over the batch, in the index's shape."""
    batch = max(len(values), len(index))
    index = index.expand(batch, *index.shape[1:])
    return values.expand(batch, -1).gather(1, index.flatten(1)).view(index.shape)


def compute_kv_lengths(mask: Mask) -> Tensor:
    """(B or 1, N): position q reads the first sees[q] positions. The whole of a staircase."""
    step = torch.atleast_2d(mask.step).contiguous()
    return torch.searchsorted(step, step, right=True)


def first_visible(mask: Mask, grid: PatchGrid) -> Tensor:
    """(B or 1, tokens): the first position at which a token's pixels are shown, N if none.

    By token, not by position: a token may stand twice in a sequence.
    """
    order, visible = torch.atleast_2d(mask.order), torch.atleast_2d(visible_of(mask))
    batch, n = max(len(order), len(visible)), len(mask)
    position = torch.where(visible, torch.arange(n, device=order.device), n)
    nowhere = torch.full((batch, grid.tokens + grid.extra), n, device=order.device)
    return nowhere.scatter_reduce(1, order.expand(batch, -1), position.expand(batch, -1), "amin")


def visible_of(mask: Mask) -> Tensor:
    """(N,) or (B, N) bool: whose pixels enter the encoder."""
    if mask.visible is None:
        return torch.ones(len(mask), dtype=torch.bool, device=mask.order.device)
    return mask.visible


def compute_loss_mask(mask: Mask, link: Links) -> Tensor:
    """(B or 1, G) bool: a prediction counts unless all its targets are given."""
    if mask.context is None:
        return torch.ones_like(link.target_positions[..., 0], dtype=torch.bool)
    return ~gather_positions(torch.atleast_2d(mask.context), link.target_positions).all(-1)


def read_lengths_and_leaks(
    link: Links, tokens: Tensor, loss_mask: Tensor, kv_lengths: Tensor, first: Tensor
) -> tuple[Tensor, Tensor]:
    """For a staircase: how many positions each prediction reads, and which targets lie in them.

    A staircase is its own closure: what a position reads reads no further, so any depth of
    encoder and decoder reaches the same prefix.

    Args:
        link: what is predicted from where.
        tokens, live: at its targets, (B or 1, G, T), and of :func:`live_of`.
        sees, first: of :func:`sees` and :func:`first_shown`, the same for all links of a mask.

    Returns:
        (B or 1, G) whole numbers, 0 where a prediction does not count; (B or 1, G, T) bool.
    """
    read_lengths = gather_positions(kv_lengths, link.source_positions).amax(-1) * loss_mask
    leaks = gather_positions(first, tokens) < read_lengths[..., None]
    return read_lengths, torch.zeros_like(leaks) if link.sees_target else leaks


def compute_output_positions(links: list[Links], num_computed: int) -> tuple[int, ...] | None:
    """The sources of all predictions, on the host; None where they are all computed positions."""
    output_positions = sorted(
        {position for link in links for position in link.source_positions.flatten().tolist()}
    )
    return None if len(output_positions) == num_computed else tuple(output_positions)


def compile_plan(mask: Mask, links: list[Links], grid: PatchGrid, bounds: Bounds) -> Plan:
    """Compile one draw of a mask on its device, vectorised, without a host read.

    A draw that leaves the bounds or leaks fails an assertion on the device.

    Args:
        mask: of one image or of a batch.
        links: of ``target.links(mask, grid)``, on the mask's device.
        grid: the image's.
        bounds: of the certificate, over all draws.
    """
    order, num_computed = torch.atleast_2d(mask.order), bounds.num_computed
    _assert_tokens(order, grid)
    encoded = None
    if mask.visible is not None:
        visible = torch.atleast_2d(mask.visible)
        torch._assert_async(
            (visible[:, :num_computed].sum(-1) == bounds.num_encoded).all(),
            "a draw of the mask shows more or fewer tokens of an image than were certified; "
            "`visible` must hold equally many in each image of every draw",
        )
        hidden = visible.logical_not().byte()
        encoded = hidden.argsort(dim=1, stable=True)[:, : bounds.num_encoded]
    output_positions = (
        None
        if bounds.output_positions is None
        else _on(bounds.output_positions, order.device)[None]
    )
    groups, outer, first = [], compute_kv_lengths(mask), first_visible(mask, grid)
    for link, whole, span in zip(links, bounds.all_in_loss, bounds.spans, strict=True):
        tokens, loss_mask = (
            gather_positions(order, link.target_positions),
            compute_loss_mask(mask, link),
        )
        if whole:
            torch._assert_async(loss_mask.all(), "a draw of the mask gives what others predict")
        rows = (
            None
            if output_positions is None
            else torch.searchsorted(output_positions[0], link.source_positions)
        )
        groups.append(
            Group(link.source_positions, tokens, None if whole else loss_mask, span, rows)
        )
        if bounds.dense is None:
            read_lengths, leaks = read_lengths_and_leaks(link, tokens, loss_mask, outer, first)
            torch._assert_async(~leaks.any(), "a draw of the mask leaks; none certified did")
            torch._assert_async(
                read_lengths.amax() <= num_computed, "a draw of the mask reads beyond its plan"
            )
    tokens = _once(
        order[:, :num_computed] if encoded is None else gather_positions(order, encoded),
        mask.masks_per_image,
    )
    encoder, decoder = _patterns(mask, outer, encoded, bounds)
    query_tokens = _query_tokens(order, links, grid)
    query_tokens = None if query_tokens is None else query_tokens[:, :num_computed]
    order = order[:, :num_computed]
    return Plan(
        order,
        encoded,
        tokens,
        encoder,
        decoder,
        groups,
        len(mask),
        query_tokens,
        mask.masks_per_image,
        output_positions,
    )


def _assert_tokens(order: Tensor, grid: PatchGrid) -> None:
    last = grid.tokens + grid.extra - 1
    torch._assert_async(
        ((order >= 0) & (order <= last)).all(),
        f"a draw of the mask names a token that does not exist; `order` must hold 0 to {last}",
    )


def _once(rows: Tensor, masks_per_image: int) -> Tensor:
    """What all masks of an image share, (images or 1, …), of (copies × images or 1, …)."""
    if len(rows) == 1:
        return rows
    first, *others = rows.chunk(masks_per_image)
    for other in others:
        torch._assert_async((other == first).all(), "the masks of an image encode different tokens")
    return first


def _query_tokens(order: Tensor, links: list[Links], grid: PatchGrid) -> Tensor | None:
    """(B or 1, N): the token that each positioned source predicts."""
    positioned = [link for link in links if link.positioned]
    if not positioned:
        return None
    query_tokens = torch.full_like(order, grid.tokens + grid.extra)
    for link in positioned:
        sources = link.source_positions.flatten(1).expand(len(order), -1)
        query_tokens = query_tokens.scatter(
            1, sources, gather_positions(order, link.target_positions).flatten(1)
        )
    return query_tokens


def _patterns(
    mask: Mask, outer: Tensor, encoded: Tensor | None, bounds: Bounds
) -> tuple[Pattern, Pattern]:
    if bounds.dense is not None:
        inner, outer = (d[None].to(mask.order.device) for d in bounds.dense)
        return Pattern("dense", bounds.num_encoded, mask=inner), Pattern(
            "dense", bounds.num_computed, mask=outer
        )
    decoder = _pattern(bounds, 1, outer[:, : bounds.num_computed].clamp(max=bounds.num_computed))
    if encoded is None:
        return decoder, decoder
    # among the shown, position q reads as many as were shown in the prefix that it saw
    before = torch.nn.functional.pad(torch.atleast_2d(mask.visible).long().cumsum(1), (1, 0))
    inner = _once(
        gather_positions(before, gather_positions(outer, encoded)).clamp(max=bounds.num_encoded),
        mask.masks_per_image,
    )
    return _pattern(bounds, 0, inner), decoder


def _pattern(bounds: Bounds, part: int, kv_lengths: Tensor) -> Pattern:
    kind, host_kv_lengths, length = (
        bounds.kinds[part],
        bounds.host_kv_lengths[part],
        kv_lengths.shape[1],
    )
    if kind == "full":
        torch._assert_async((kv_lengths == length).all(), "a draw of the mask is not bidirectional")
    elif kind == "causal":
        causal = torch.arange(length, device=kv_lengths.device) + 1
        torch._assert_async((kv_lengths == causal).all(), "a draw of the mask is not causal")
    elif host_kv_lengths is not None:
        same = (kv_lengths == _on(host_kv_lengths, kv_lengths.device)).all()
        torch._assert_async(same, "a draw of the mask has other steps than were certified")
    output_positions = (
        bounds.output_positions if part == 1 else None
    )  # where tokens are hidden the encoder computes all
    return Pattern(
        kind, length, kv_lengths, host_kv_lengths=host_kv_lengths, output_positions=output_positions
    )


@cache
@torch.inference_mode(False)  # what is first asked for there must serve training too
def _on(numbers: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(numbers, device=device)


@dataclass
class Features:
    """What an encoder reads when it is probed.

    Args:
        order: (1, N) token at each position; every token of the grid once.
        pattern: attention over the N positions.
        raster: (1, N) position of each token, tokens without pixels first, then raster order.
    """

    order: Tensor
    pattern: Pattern
    raster: Tensor

    def to(self, device: torch.device | str) -> "Features":
        """The same on another device."""
        return Features(self.order.to(device), self.pattern.to(device), self.raster.to(device))


def compile_features(mask: Mask, grid: PatchGrid) -> Features:
    """Compile the mask of a probed encoder; ValueError unless it names every token once."""
    n = grid.tokens + grid.extra
    if mask.order.ndim > 1 or sorted(mask.order.tolist()) != list(range(n)):
        raise ValueError(
            f"features of {grid} need each of its {n} tokens once, in one order for all images; "
            f"this mask's order has shape {tuple(mask.order.shape)} and "
            f"{mask.order.unique().numel()} different tokens"
        )
    if mask.attend is not None:
        pattern = Pattern("dense", n, mask=mask.attention_mask())
    else:
        pattern = Pattern(
            kind_of(compute_kv_lengths(mask)),
            n,
            compute_kv_lengths(mask),
            host_kv_lengths=tuple(compute_kv_lengths(mask)[0].tolist()),
        )
    raster = mask.order.argsort().roll(grid.extra)
    return Features(mask.order[None], pattern, raster[None])


def kind_of(kv_lengths: Tensor) -> str:
    """The kind of a staircase, read on the host."""
    length = kv_lengths.shape[1]
    if (kv_lengths == length).all():
        return "full"
    return "causal" if (kv_lengths == torch.arange(length) + 1).all() else "staircase"
