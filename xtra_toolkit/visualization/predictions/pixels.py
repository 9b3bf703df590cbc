"""From the predictions of a plan back to pixels.

Shape legend: B images, N tokens of the grid, V values of a token; of a group of predictions G links
of T tokens.
"""

from functools import reduce

import torch
from torch import Tensor, nn

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.models.layers import gather_tokens
from xtra_toolkit.objective.plan import Plan


@torch.no_grad()
def predicted(model: nn.Module, images: Tensor, plan: Plan) -> Tensor:
    """(B, N, V): what a pretrainer predicts, with the statistics of its true values; NaN where it
    predicts nothing that counts.
    """
    target = model.target_generator
    values = target.values(images, model.objective.grid).repeat(plan.masks_per_image, 1, 1)
    pixels = []
    for group, prediction in zip(plan.groups, model.reconstruct(images, plan), strict=True):
        like = gather_tokens(values, group.tokens.flatten(1)).view(prediction.shape)
        pixels.append(target.restore(prediction.to(like), like))
    return on_grid(plan, pixels, model.objective.grid, len(images))


def on_grid(plan: Plan, numbers: list[Tensor], grid: PatchGrid, batch: int) -> Tensor:
    """Numbers of each prediction, at the tokens that it predicts.

    Of several masks of an image all are laid on it; of a token that is predicted twice the first
    stays, of look-ahead the nearest.

    Args:
        plan: its groups say where, and which predictions count.
        numbers: of each group (B or 1, G, T * V).

    Returns:
        (B, N, V) float, NaN where nothing is predicted.
    """
    rows, layers = batch * plan.masks_per_image, []
    for group, own in zip(plan.groups, numbers, strict=True):
        if group.loss_mask is not None:
            own = own.where(group.loss_mask[..., None], torch.nan)
        index = group.tokens.flatten(1).expand(rows, -1)
        own = own.expand(rows, -1, -1).reshape(*index.shape, -1)
        index = index[..., None].expand_as(own)
        empty = own.new_full((rows, grid.tokens, own.shape[-1]), torch.nan)
        layers += empty.scatter(1, index, own).chunk(plan.masks_per_image)
    return reduce(filled, layers)


def filled(image: Tensor, other: Tensor) -> Tensor:
    """An image, and another one where it is NaN."""
    return image.where(~image.isnan(), other)


def encoded(plan: Plan, grid: PatchGrid, batch: int) -> Tensor:
    """(B, N) bool: the tokens whose pixels enter the encoder."""
    tokens = plan.encoded_tokens.expand(batch, -1)
    seen = torch.zeros(batch, grid.tokens + grid.extra, dtype=torch.bool, device=tokens.device)
    return seen.scatter(1, tokens, True)[:, : grid.tokens]


@torch.no_grad()
def true_pixels(model: nn.Module, images: Tensor) -> Tensor:
    """The images whose patches a target predicts: the input, or what its ``filter`` makes of it.

    Raises:
        ValueError: it predicts no pixels.
    """
    target, grid = model.target_generator, model.objective.grid
    truth = target.filter(images)
    if target.pixels and target.width(grid) == grid.values:
        values, patches = target.values(images, grid), grid.patchify(truth)
        if values.shape == patches.shape and torch.equal(values.to(patches), patches):
            return truth
    raise ValueError(
        f"{type(target).__name__} predicts something else than the pixels of a patch, which cannot "
        "be drawn or fed back; pixels are what NextBlock, NextToken and MaskedPatches predict"
    )
