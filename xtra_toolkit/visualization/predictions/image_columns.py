"""Columns of pictures of predictions: input, mask, prediction, difference and truth.

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

WHITE = 128  # a difference of this many of 255 levels or more is white
CELL = 8  # least side of a token in the column of the mask, in pixels


@torch.no_grad()
def columns(model: nn.Module, images: Tensor, description: str) -> list[ImageColumn]:
    """Make the columns of a picture of predictions.

    Args:
        model: A ``MaskTargetPretrainer`` in evaluation mode.
        images: (B, C, H, W), normalised as in training.
        description: Kind of the images for the caption, such as 'validation images'.

    Raises:
        ValueError: If the target is not pixels.
    """
    truth, grid = true_pixels(model, images), model.objective.grid
    plan = model.objective(len(images), images.device)
    seen = encoded(plan, grid, len(images))
    visible = grid.patchify(images).where(seen[..., None], torch.nan)
    predictions = predicted(model, images, plan)
    stack = grid.unpatchify(visible), grid.unpatchify(predictions), truth
    input_pixels, prediction, target = (to_pixels(x, model.data_preprocessor) for x in stack)
    error, mean = difference(prediction, target)
    statistics = f"\n{OWN}" if model.target_generator.normalises else ""
    mask, legend = mask_cells(plan, grid, len(images))
    num_seen = f"{int(seen[0].sum())} of {grid.tokens} patches seen"
    return [
        ImageColumn("input", input_pixels, f"{description}\n{num_seen}"),
        ImageColumn("mask", mask, legend),
        ImageColumn(
            "prediction, from true pixels", prediction, f"hatched: nothing predicted{statistics}"
        ),
        ImageColumn("difference", error, f"mean {mean:.1f} of 255\nwhite: {WHITE} or more"),
        ImageColumn("truth", target, "" if truth is images else "as the target filters it"),
    ]


def difference(prediction: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, float]:
    """Compute the absolute difference of RGBA images (B, H, W, 4), averaged over the channels.

    Returns:
        The difference as grey RGBA (B, H, W, 4), and its mean over predicted pixels in levels.
    """
    levels = np.abs(prediction[..., :3].astype(int) - target[..., :3]).mean(-1)
    predicted_pixels = prediction[..., 3] > 0
    grey = np.minimum(levels * 255 / WHITE, 255).round().astype(np.uint8)
    return np.stack([grey] * 3 + [prediction[..., 3]], -1), levels[predicted_pixels].mean()


def mask_cells(plan: Plan, grid: PatchGrid, batch: int) -> tuple[np.ndarray, str]:
    """Draw when each token is predicted.

    The colour of a prediction shows how many positions it may see. Tokens that are predicted
    together are surrounded by a white line.

    Returns:
        An image (B, H, W, 4) RGBA, and a legend of the colours.
    """
    num_visible, units, num_predictions = [], [], 0
    for group in plan.groups:
        shape = group.tokens.shape[1:]
        visible = count_visible(plan, group.source_positions)
        num_visible.append(visible[..., None].expand(-1, *shape))
        unit = torch.arange(shape[0], device=group.tokens.device) + num_predictions
        units.append(unit[None, :, None].expand(1, *shape))
        num_predictions += shape[0]
    numbers = [[x.float() for x in group] for group in (num_visible, units)]
    order, unit = (on_grid(plan, x, grid, batch)[..., 0].cpu() for x in numbers)
    seen, steps = encoded(plan, grid, batch).cpu(), order[~order.isnan()].unique()
    index = torch.searchsorted(steps, order.nan_to_num())
    colours = [STEPS(i / (1.2 * max(1, len(steps) - 1))) for i in range(len(steps))]
    colours += [to_rgba(GREY), (0, 0, 0, 0)]  # context; neither encoded nor predicted
    index[order.isnan()] = len(steps)
    index[order.isnan() & ~seen] = len(steps) + 1
    rgba = (torch.tensor(colours) * 255).byte()[index]
    shades = "dark: predicted" if len(steps) == 1 else "dark to light: the order"
    return cells(rgba, unit.nan_to_num(-1), grid), f"grey: context, never predicted\n{shades}"


def count_visible(plan: Plan, sources: Tensor) -> Tensor:
    """Return (B or 1, G), the number of positions that each prediction may see.

    Under a mask with a predicate it is the position of its last source, counted from 1.
    """
    pattern = plan.decoder
    if pattern.kind == "full":
        return torch.full_like(sources[..., 0], pattern.length)
    kv_lengths = pattern.kv_lengths if pattern.kind == "staircase" else None
    return (sources + 1 if kv_lengths is None else gather_positions(kv_lengths, sources)).amax(-1)


def cells(rgba: Tensor, unit: Tensor, grid: PatchGrid) -> np.ndarray:
    """Draw colours (B, N, 4) as cells, (B, H, W, 4), with white lines between units."""
    h, w = (side * -(-CELL // min(grid.patch)) for side in grid.patch)
    table = rgba.unflatten(1, (grid.rows, grid.cols))
    image = table.repeat_interleave(h, 1).repeat_interleave(w, 2)
    unit = unit.unflatten(1, (grid.rows, grid.cols)).repeat_interleave(h, 1)
    unit = unit.repeat_interleave(w, 2)
    image[:, :-1][unit[:, 1:] != unit[:, :-1]] = 255
    image[:, :, :-1][unit[:, :, 1:] != unit[:, :, :-1]] = 255
    return image.numpy()
