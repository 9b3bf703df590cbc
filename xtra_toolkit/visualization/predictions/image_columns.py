"""What an objective makes of images, side by side: input, mask, prediction, difference, truth.

Shape legend: B images, N tokens of the grid, V values of a token, H and W pixels.
"""

import numpy as np
import torch
from matplotlib.colors import to_rgba
from torch import Tensor, nn

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.objective.links import gather_positions
from xtra_toolkit.objective.plan import Plan
from xtra_toolkit.visualization.objectives.objective_panels import GREY, STEPS
from xtra_toolkit.visualization.predictions.image_panels import OWN
from xtra_toolkit.visualization.predictions.load import to_pixels
from xtra_toolkit.visualization.predictions.pixels import encoded, on_grid, predicted, true_pixels
from xtra_toolkit.visualization.predictions.sheet import ImageColumn

WHITE = 128  # a difference of so many of 255 levels is white
CELL = 8  # pixels of a token in the mask's column, at least


@torch.no_grad()
def columns(model: nn.Module, images: Tensor, whose: str) -> list[ImageColumn]:
    """The columns of a picture.

    Args:
        model: a MaskTargetPretrainer in evaluation mode.
        images: (B, C, H, W), normalised as in training.
        whose: images they are, for the caption.

    Raises:
        ValueError: the target is no pixels.
    """
    truth, grid = true_pixels(model, images), model.objective.grid
    plan = model.objective(len(images), images.device)
    seen = encoded(plan, grid, len(images))
    shown = grid.patchify(images).where(seen[..., None], torch.nan)
    made = predicted(model, images, plan)
    stack = [grid.unpatchify(shown), grid.unpatchify(made), truth]
    given, guess, goal = (to_pixels(x, model.data_preprocessor) for x in stack)
    error, mean = difference(guess, goal)
    own = f"\n{OWN}" if model.target_generator.normalises else ""
    mask, said = mask_cells(plan, grid, len(images))
    return [
        ImageColumn("input", given, f"{whose}\n{int(seen[0].sum())} of {grid.tokens} patches seen"),
        ImageColumn("mask", mask, said),
        ImageColumn("prediction, from true pixels", guess, f"hatched: nothing predicted{own}"),
        ImageColumn("difference", error, f"mean {mean:.1f} of 255\nwhite: {WHITE} or more"),
        ImageColumn("truth", goal, "" if truth is images else "as the target filters it"),
    ]


def difference(guess: np.ndarray, goal: np.ndarray) -> tuple[np.ndarray, float]:
    """Absolute, the mean of the channels, as grey (B, H, W, 4); and its mean in levels."""
    levels = np.abs(guess[..., :3].astype(int) - goal[..., :3]).mean(-1)
    there = guess[..., 3] > 0
    grey = np.minimum(levels * 255 / WHITE, 255).round().astype(np.uint8)
    return np.stack([grey] * 3 + [guess[..., 3]], -1), levels[there].mean()


def mask_cells(plan: Plan, grid: PatchGrid, batch: int) -> tuple[np.ndarray, str]:
    """When each token is predicted, as (B, H, W, 4) RGBA, and what the colours say.

    A prediction's colour is how much of the sequence it may see. What is predicted together has a
    white line around it.
    """
    sights, units, first = [], [], 0
    for group in plan.groups:
        targets = group.tokens.shape[1:]
        sights.append(sight(plan, group.source_positions)[..., None].expand(-1, *targets))
        unit = torch.arange(targets[0], device=group.tokens.device) + first
        units.append(unit[None, :, None].expand(1, *targets))
        first += targets[0]
    numbers = [[x.float() for x in group] for group in (sights, units)]
    when, unit = (on_grid(plan, x, grid, batch)[..., 0].cpu() for x in numbers)
    seen, steps = encoded(plan, grid, batch).cpu(), when[~when.isnan()].unique()
    place = torch.searchsorted(steps, when.nan_to_num())
    colours = [STEPS(i / (1.2 * max(1, len(steps) - 1))) for i in range(len(steps))]
    colours += [to_rgba(GREY), (0, 0, 0, 0)]  # given; in no part of the objective
    place[when.isnan()] = len(steps)
    place[when.isnan() & ~seen] = len(steps) + 1
    rgba = (torch.tensor(colours) * 255).byte()[place]
    said = "dark: predicted" if len(steps) == 1 else "dark to light: the order"
    return cells(rgba, unit.nan_to_num(-1), grid), f"grey: given, never predicted\n{said}"


def sight(plan: Plan, sources: Tensor) -> Tensor:
    """(B or 1, G): positions that each prediction may see; of a predicate its own place."""
    pattern = plan.decoder
    if pattern.kind == "full":
        return torch.full_like(sources[..., 0], pattern.length)
    kv_lengths = pattern.kv_lengths if pattern.kind == "staircase" else None
    return (sources + 1 if kv_lengths is None else gather_positions(kv_lengths, sources)).amax(-1)


def cells(rgba: Tensor, unit: Tensor, grid: PatchGrid) -> np.ndarray:
    """Colours (B, N, 4) as cells in the shape of patches, (B, H, W, 4), white between units."""
    h, w = (side * -(-CELL // min(grid.patch)) for side in grid.patch)
    table = rgba.unflatten(1, (grid.rows, grid.cols))
    image = table.repeat_interleave(h, 1).repeat_interleave(w, 2)
    unit = unit.unflatten(1, (grid.rows, grid.cols)).repeat_interleave(h, 1)
    unit = unit.repeat_interleave(w, 2)
    image[:, :-1][unit[:, 1:] != unit[:, :-1]] = 255
    image[:, :, :-1][unit[:, :, 1:] != unit[:, :, :-1]] = 255
    return image.numpy()
