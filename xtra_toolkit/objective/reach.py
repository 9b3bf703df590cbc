"""Reach: which positions, and whose pixels, can influence a prediction.

In a staircase (an ordered partition in sequence order) position q attends to a prefix of the
sequence. What it attends to attends no further, so any number of layers reaches the same prefix. If
the decoder has a mask of its own, the prefix of the decoder is followed by that of the encoder. A
mask with a predicate is followed through as many layers as the models have.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.objective.links import Links, compute_loss_mask, gather_positions
from xtra_toolkit.objective.mask import Mask

Depth = tuple[int, int]  # layers of the encoder and of the decoder


@dataclass(frozen=True)
class Reach:
    """Hold what the predictions of one group can see.

    Args:
        lengths: (B or 1, G) one more than the last position that a prediction reads; 0 where it
            does not count in the loss.
        leaks: (B or 1, G, T) bool, targets that their own prediction can see.
        seen: (G, N) bool, visible positions that reach a prediction. Only for a mask with a
            predicate; None for a staircase, where they are the visible ones below ``lengths``.
    """

    lengths: Tensor
    leaks: Tensor
    seen: Tensor | None = None


def compute_kv_lengths(mask: Mask) -> Tensor:
    """Return (B or 1, N): position q attends to the first ``kv_lengths[q]`` positions."""
    step = torch.atleast_2d(mask.step).contiguous()
    return torch.searchsorted(step, step, right=True)


def reach_lengths(mask: Mask, kv_lengths: Tensor, mask_tokens: bool = False) -> Tensor:
    """Return (B or 1, N): position q is reached from the first ``lengths[q]`` positions only.

    In the decoder q attends to the first k positions, and what was encoded among these attends to
    a prefix in the encoder, which may be longer than k.

    Args:
        mask: A staircase.
        kv_lengths: See :func:`compute_kv_lengths`.
        mask_tokens: Whether mask tokens stand for hidden tokens in the encoder.
    """
    if not mask.own_decoder:
        return kv_lengths
    decoder = compute_kv_lengths(mask.of_decoder())
    encoded = True if mask_tokens else torch.atleast_2d(mask.visible_or_all())
    farthest = torch.nn.functional.pad((kv_lengths * encoded).cummax(1).values, (1, 0))
    return torch.maximum(decoder, gather_positions(farthest, decoder))


def first_visible(mask: Mask, grid: PatchGrid) -> Tensor:
    """Return (B or 1, tokens): the first position at which a token is visible, N if there is none.

    A token may stand twice in a sequence, so this is computed for tokens, not for positions.
    """
    order, visible = torch.atleast_2d(mask.order), torch.atleast_2d(mask.visible_or_all())
    batch, n = max(len(order), len(visible)), len(mask)
    position = torch.where(visible, torch.arange(n, device=order.device), n)
    nowhere = torch.full((batch, grid.tokens + grid.extra), n, device=order.device)
    return nowhere.scatter_reduce(1, order.expand(batch, -1), position.expand(batch, -1), "amin")


def staircase_reach(
    links: Links, tokens: Tensor, loss_mask: Tensor, lengths: Tensor, first: Tensor
) -> Reach:
    """Compute the reach under a staircase, on any device and without a host read.

    Args:
        links: The predictions.
        tokens: (B or 1, G, T) tokens at the target positions.
        loss_mask: (B or 1, G), see :func:`compute_loss_mask`.
        lengths: See :func:`reach_lengths`.
        first: See :func:`first_visible`.
    """
    lengths = gather_positions(lengths, links.source_positions).amax(-1) * loss_mask
    leaks = gather_positions(first, tokens) < lengths[..., None]
    return Reach(lengths, torch.zeros_like(leaks) if links.sees_target else leaks)


def trace_reach(
    mask: Mask, links: Links, grid: PatchGrid, depth: Depth, mask_tokens: bool = False
) -> Reach:
    """Compute the reach of one group of predictions under any mask, on the host.

    Args:
        mask: One draw.
        links: The predictions.
        grid: The grid of the images.
        depth: Layers of the encoder and of the decoder.
        mask_tokens: Whether the encoder holds mask tokens, which pass on what they attend to. In a
            staircase this makes no difference: all that a position attends to lies in its prefix.
    """
    order = torch.atleast_2d(mask.order)
    tokens = gather_positions(order, links.target_positions)
    loss_mask = compute_loss_mask(mask, links)
    if not mask.has_predicate:
        lengths = reach_lengths(mask, compute_kv_lengths(mask), mask_tokens)
        return staircase_reach(links, tokens, loss_mask, lengths, first_visible(mask, grid))
    visible = mask.visible_or_all()
    if visible.ndim > 1 or mask.step.ndim > 1 or links.source_positions.shape[0] > 1:
        raise ValueError("a mask with a predicate must be the same for all images of the batch")
    attention_mask = mask.attention_mask()[0]
    decoder = closure(mask.of_decoder().attention_mask()[0], depth[1])
    encoded = torch.ones_like(visible) if mask_tokens else visible
    encoder = torch.zeros_like(attention_mask)
    among_encoded = closure(attention_mask[encoded][:, encoded], depth[0])
    encoder[encoded[:, None] & encoded[None, :]] = among_encoded.flatten()
    read = decoder[links.source_positions[0]].any(1)
    reached = ((read & encoded).float() @ encoder.float()) > 0
    last = (torch.arange(len(mask)) + 1) * (read | reached)
    seen = reached & visible
    leaks = ((order[:, None, None, :] == tokens[..., None]) & seen[None, :, None, :]).any(-1)
    leaks = leaks & loss_mask[..., None] & (not links.sees_target)
    return Reach(last.amax(-1) * loss_mask, leaks, seen)


def closure(attention_mask: Tensor, depth: int) -> Tensor:
    """Return (N, N) bool: whether ``depth`` layers with residuals carry position k to q."""
    own = torch.eye(len(attention_mask), dtype=torch.bool)
    reach = own
    for _ in range(depth):
        further = (reach.float() @ (attention_mask | own).float()) > 0
        if torch.equal(further, reach):
            break
        reach = further
    return reach
