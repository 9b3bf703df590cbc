"""Turn the predictions of a plan back into pixels.

Shape legend: B images, N tokens of the grid, V values of a token; a group has G predictions of T
tokens each.
"""

from functools import reduce

import torch
from torch import Tensor, nn

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.models.layers import gather_tokens
from xtra_toolkit.objective.plan import Plan


@torch.no_grad()
def predicted(model: nn.Module, images: Tensor, plan: Plan) -> Tensor:
    """Return the predicted pixels of each token, (B, N, V).

    A normalised target is restored with the statistics of its true values. A token without a
    prediction that counts in the loss is NaN.
    """
    target = model.target_generator
    values = target.values(images, model.objective.grid).repeat(plan.masks_per_image, 1, 1)
    pixels = []
    for group, prediction in zip(plan.groups, model.reconstruct(images, plan), strict=True):
        like = gather_tokens(values, group.tokens.flatten(1)).view(prediction.shape)
        pixels.append(target.restore(prediction.to(like), like))
    return on_grid(plan, pixels, model.objective.grid, len(images))


def on_grid(plan: Plan, numbers: list[Tensor], grid: PatchGrid, batch: int) -> Tensor:
    """Write numbers of each prediction to the tokens that it predicts.

    All masks of an image are combined. If a token is predicted in several groups, the first
    prediction is kept; with look-ahead this is the nearest one. In a group, a token is predicted
    once at most by those that count.

    Args:
        plan: The plan, whose groups say which tokens are predicted and which predictions count.
        numbers: (B or 1, G, T * V) of each group.
        grid: The grid of the images.
        batch: Number of images.

    Returns:
        (B, N, V) float, NaN for tokens that are not predicted.
    """
    rows, layers = batch * plan.masks_per_image, []
    for group, values in zip(plan.groups, numbers, strict=True):
        tokens = group.tokens
        if group.loss_mask is not None:  # predictions that do not count go behind the last token
            tokens = tokens.where(group.loss_mask[..., None], grid.tokens)
        index = tokens.flatten(1).expand(rows, -1)
        values = values.expand(rows, -1, -1).reshape(*index.shape, -1)
        index = index[..., None].expand_as(values)
        empty = values.new_full((rows, grid.tokens + 1, values.shape[-1]), torch.nan)
        written = empty.scatter(1, index, values)[:, : grid.tokens]
        layers += written.chunk(plan.masks_per_image)
    return reduce(filled, layers)


def filled(image: Tensor, other: Tensor) -> Tensor:
    """Return ``image`` with NaN replaced by ``other``."""
    return image.where(~image.isnan(), other)


def encoded(plan: Plan, grid: PatchGrid, batch: int) -> Tensor:
    """Return (B, N) bool, the tokens whose pixels enter the encoder."""
    tokens = plan.encoded_tokens.expand(batch, -1)
    seen = torch.zeros(batch, grid.tokens + grid.extra, dtype=torch.bool, device=tokens.device)
    pixels = torch.ones_like(tokens, dtype=torch.bool) if plan.hidden is None else ~plan.hidden
    return seen.scatter(1, tokens, pixels.expand(batch, -1))[:, : grid.tokens]


@torch.no_grad()
def true_pixels(model: nn.Module, images: Tensor) -> Tensor:
    """Return the images whose patches the target predicts: the input or its filtered version.

    Raises:
        ValueError: If the target does not predict pixels or is a sum of targets, or the head gives
            a distribution.
    """
    target, grid = model.target_generator, model.objective.grid
    if model.head.random:
        raise ValueError(
            f"{type(model.head).__name__} learns a distribution of the values and does not sample "
            "from it, so there is no prediction to draw or to feed back; PredictionHead predicts "
            "values"
        )
    if len(target.parts) > 1:
        raise ValueError(
            f"{type(target).__name__} adds up {len(target.parts)} targets, and a picture is of "
            "one; a model of one target of pixels, such as NextBlock or MaskedPatches, can be drawn"
        )
    truth = target.filter(images)
    if target.pixels and target.width(grid) == grid.values:
        values, patches = target.values(images, grid), grid.patchify(truth)
        if values.shape == patches.shape and torch.equal(values.to(patches), patches):
            return truth
    raise ValueError(
        f"{type(target).__name__} predicts something else than the pixels of a patch, which cannot "
        "be drawn or fed back; NextBlock, NextToken and MaskedPatches predict pixels"
    )
