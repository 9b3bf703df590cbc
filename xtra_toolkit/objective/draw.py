"""Compile one draw of a mask into a plan, or a mask of features, on its device."""

from functools import cache

import torch
from torch import Tensor

from xtra_toolkit.attention.pattern import Pattern
from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.objective.bounds import kind_of
from xtra_toolkit.objective.links import Links, compute_loss_mask, gather_positions
from xtra_toolkit.objective.mask import Mask
from xtra_toolkit.objective.plan import Bounds, Features, Group, Plan
from xtra_toolkit.objective.reach import (
    compute_kv_lengths,
    first_visible,
    reach_lengths,
    staircase_reach,
)

STRUCTURE = ("unit", "visible")  # the links follow from these; only `order` and `step` are data


def compile_plan(mask: Mask, links: list[Links], grid: PatchGrid, bounds: Bounds) -> Plan:
    """Compile one draw of a mask on its device, vectorised and without a host read.

    A draw that leaves the bounds or leaks fails an assertion on the device.

    Args:
        mask: The draw, of one image or of a batch.
        links: The predictions, on the mask's device.
        grid: The grid of the images.
        bounds: What was certified over all draws.
    """
    order, num_computed = torch.atleast_2d(mask.order), bounds.num_computed
    _assert_tokens(order, grid)
    _assert_steps(mask)
    encoded = _encoded_positions(mask, bounds)
    output_positions = None
    if bounds.output_positions is not None:
        output_positions = _on_device(bounds.output_positions, order.device)[None]
    kv_lengths = compute_kv_lengths(mask)
    groups = _groups(mask, links, grid, bounds, kv_lengths, output_positions)
    tokens = order[:, :num_computed] if encoded is None else gather_positions(order, encoded)
    encoder, decoder = _patterns(mask, kv_lengths, encoded, bounds)
    query_tokens = _query_tokens(order, links, grid)
    return Plan(
        order=order[:, :num_computed],
        encoded_positions=encoded,
        encoded_tokens=_first_masks(tokens, mask.masks_per_image),
        encoder=encoder,
        decoder=decoder,
        groups=groups,
        length=len(mask),
        query_tokens=None if query_tokens is None else query_tokens[:, :num_computed],
        masks_per_image=mask.masks_per_image,
        output_positions=output_positions,
        hidden=_hidden(mask, bounds),
        each_token_once=bounds.each_token_once,
    )


def check_structure(certified: Mask, drawn: Mask) -> None:
    """Check that a draw has the certified structure; both are on one device.

    Shapes are checked on the host, values by an assertion on the device.
    """
    for field in ("order", *STRUCTURE):
        first, other = getattr(certified, field), getattr(drawn, field)
        if (first is None) != (other is None) or (
            first is not None and (first.ndim, len(certified)) != (other.ndim, len(drawn))
        ):
            raise ValueError(f"a draw of the mask has another `{field}` than was certified")
        if field in STRUCTURE and first is not None and first.ndim == 1:
            torch._assert_async(
                (first == other).all(),
                f"a draw of the mask changes `{field}`, which was compiled once",
            )
    if (drawn.decoder_step is None) != (certified.decoder_step is None):
        raise ValueError("a draw of the mask has another `decoder_step` than was certified")
    if drawn.has_predicate or drawn.masks_per_image != certified.masks_per_image:
        raise ValueError(
            "a draw of the mask has a predicate or a masks_per_image that was not certified"
        )


def compile_features(mask: Mask, grid: PatchGrid) -> Features:
    """Compile the mask of a probed encoder.

    Raises:
        ValueError: The mask does not name every token exactly once, in one order for all images.
    """
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
        kv_lengths = compute_kv_lengths(mask)
        host = tuple(kv_lengths[0].tolist())
        pattern = Pattern(kind_of(kv_lengths), n, kv_lengths, host_kv_lengths=host)
    raster = mask.order.argsort().roll(grid.extra)
    return Features(mask.order[None], pattern, raster[None])


def _assert_tokens(order: Tensor, grid: PatchGrid) -> None:
    last = grid.tokens + grid.extra - 1
    torch._assert_async(
        ((order >= 0) & (order <= last)).all(),
        f"a draw of the mask names a token that does not exist; `order` must hold 0 to {last}",
    )


def _assert_steps(mask: Mask) -> None:
    for field in ("step", "decoder_step"):
        value = getattr(mask, field)
        if value is not None:
            torch._assert_async(
                (value.diff(dim=-1) >= 0).all(),
                f"`{field}` of a draw of the mask decreases along the sequence, so a position "
                "would attend to later ones",
            )


def _hidden(mask: Mask, bounds: Bounds) -> Tensor | None:
    if mask.visible is None or not bounds.mask_tokens:
        return None
    return ~torch.atleast_2d(mask.visible)[:, : bounds.num_computed]


def _encoded_positions(mask: Mask, bounds: Bounds) -> Tensor | None:
    if mask.visible is None or bounds.mask_tokens:
        return None
    visible = torch.atleast_2d(mask.visible)
    torch._assert_async(
        (visible[:, : bounds.num_computed].sum(-1) == bounds.num_encoded).all(),
        "a draw of the mask shows more or fewer tokens of an image than were certified; "
        "`visible` must hold equally many in each image of every draw",
    )
    hidden = visible.logical_not().byte()
    return hidden.argsort(dim=1, stable=True)[:, : bounds.num_encoded]


def _groups(
    mask: Mask,
    links: list[Links],
    grid: PatchGrid,
    bounds: Bounds,
    kv_lengths: Tensor,
    output_positions: Tensor | None,
) -> list[Group]:
    order, first, groups = torch.atleast_2d(mask.order), first_visible(mask, grid), []
    lengths = reach_lengths(mask, kv_lengths, bounds.mask_tokens)
    for group, whole, span in zip(links, bounds.all_in_loss, bounds.spans, strict=True):
        sources = group.source_positions
        tokens = gather_positions(order, group.target_positions)
        loss_mask = compute_loss_mask(mask, group)
        if whole:
            torch._assert_async(
                loss_mask.all(), "a draw of the mask makes context of what others predict"
            )
        index = None
        if output_positions is not None:
            index = torch.searchsorted(output_positions[0], sources)
        counted = None if whole else loss_mask
        groups.append(Group(sources, tokens, counted, span, index, part=group.part))
        if bounds.dense is None:
            reach = staircase_reach(group, tokens, loss_mask, lengths, first)
            torch._assert_async(
                ~reach.leaks.any(), "a draw of the mask leaks; none of the certified ones did"
            )
            torch._assert_async(
                reach.lengths.amax() <= bounds.num_computed,
                "a draw of the mask reads beyond its plan",
            )
    return groups


def _first_masks(rows: Tensor, masks_per_image: int) -> Tensor:
    """Return the first mask's rows (images or 1, ...); assert that all masks of an image agree."""
    if len(rows) == 1:
        return rows
    first, *others = rows.chunk(masks_per_image)
    for other in others:
        torch._assert_async((other == first).all(), "the masks of an image encode different tokens")
    return first


def _query_tokens(order: Tensor, links: list[Links], grid: PatchGrid) -> Tensor | None:
    positioned = [group for group in links if group.positioned]
    if not positioned:
        return None
    query_tokens = torch.full_like(order, grid.tokens + grid.extra)
    for group in positioned:
        sources = group.source_positions.flatten(1).expand(len(order), -1)
        targets = gather_positions(order, group.target_positions).flatten(1)
        query_tokens = query_tokens.scatter(1, sources, targets)
    return query_tokens


def _patterns(
    mask: Mask, kv_lengths: Tensor, encoded: Tensor | None, bounds: Bounds
) -> tuple[Pattern, Pattern]:
    num_encoded, num_computed = bounds.num_encoded, bounds.num_computed
    if bounds.dense is not None:
        inner, outer = (dense[None].to(mask.order.device) for dense in bounds.dense)
        return (
            Pattern("dense", num_encoded, mask=inner),
            Pattern("dense", num_computed, mask=outer),
        )
    own = compute_kv_lengths(mask.of_decoder()) if mask.own_decoder else kv_lengths
    decoder = _pattern(bounds, 1, own[:, :num_computed].clamp(max=num_computed))
    if encoded is None and not mask.own_decoder:
        return decoder, decoder
    if encoded is None:
        return _pattern(bounds, 0, kv_lengths[:, :num_computed].clamp(max=num_computed)), decoder
    # an encoded position attends to the visible ones of the prefix that it may see
    before = torch.nn.functional.pad(torch.atleast_2d(mask.visible).long().cumsum(1), (1, 0))
    inner = gather_positions(before, gather_positions(kv_lengths, encoded))
    inner = _first_masks(inner.clamp(max=num_encoded), mask.masks_per_image)
    return _pattern(bounds, 0, inner), decoder


def _pattern(bounds: Bounds, part: int, kv_lengths: Tensor) -> Pattern:
    kind, host, length = bounds.kinds[part], bounds.host_kv_lengths[part], kv_lengths.shape[1]
    if kind == "full":
        torch._assert_async((kv_lengths == length).all(), "a draw of the mask is not bidirectional")
    elif kind == "causal":
        causal = torch.arange(length, device=kv_lengths.device) + 1
        torch._assert_async((kv_lengths == causal).all(), "a draw of the mask is not causal")
    elif host is not None:
        same = (kv_lengths == _on_device(host, kv_lengths.device)).all()
        torch._assert_async(same, "a draw of the mask has other steps than were certified")
    # the last layer of the decoder computes the output positions alone; the encoder computes all
    outputs = bounds.output_positions if part == 1 else None
    return Pattern(kind, length, kv_lengths, host_kv_lengths=host, output_positions=outputs)


@cache
@torch.inference_mode(False)  # training may use the cached tensor later
def _on_device(numbers: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(numbers, device=device)
