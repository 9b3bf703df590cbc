"""The panels of ``xtra complete``: the input, the predictions of a model, and the truth."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from xtra_toolkit.visualization.predictions.continuation import Continuation
from xtra_toolkit.visualization.predictions.pixels import encoded, filled, predicted, true_pixels

OWN = "target's own mean and std"  # note of a normalised target that is restored


@dataclass
class Panel:
    """A column of images in the picture.

    Args:
        name: Name of the panel.
        images: (B, C, height, width) in the normalisation of the model; NaN is drawn as empty.
        note: Text below the name, which says how the images were made.
        bordered: Whether to draw a line around the pixels of the input.
    """

    name: str
    images: Tensor
    note: str = ""
    bordered: bool = False

    def error(self, shown: Tensor, truth: Tensor) -> Tensor:
        """Return (B,) the mean squared error of the pixels that are NaN in ``shown``."""
        hidden = shown.isnan()
        return ((self.images - truth) ** 2).where(hidden, 0).sum((1, 2, 3)) / hidden.sum((1, 2, 3))


def panels(
    model: nn.Module, images: Tensor, given: int | None = None, stats: str | None = None
) -> list[Panel]:
    """Make the panels: reconstruct images if the mask hides patches, continue them otherwise.

    Args:
        model: A ``MaskTargetPretrainer`` in evaluation mode.
        images: (B, C, height, width), normalised as in training.
        given: Number of known units of a continuation. None gives half of them.
        stats: ``'previous'`` restores each unit of a normalised target with the mean and standard
            deviation of the unit before it.

    Raises:
        ValueError: If the target is not pixels, or the options do not fit the objective.
    """
    if true_pixels(model, images) is not images:
        raise ValueError(
            f"{type(model.target_generator).__name__} predicts a filtered image, which cannot be "
            "fed back; xtra complete needs a target of raw pixels"
        )
    if model.objective.has_masked_tokens:
        if given is not None or stats is not None:
            raise ValueError(
                f"{model.objective.name} reconstructs what its mask hides, and continues nothing; "
                "leave out --given and --stats"
            )
        return reconstruction(model, images)
    return continuation(model, images, given, stats)


def continuation(
    model: nn.Module, images: Tensor, given: int | None, stats: str | None
) -> list[Panel]:
    """Make the panels of a continuation: input, teacher-forced, free-running and truth.

    For a normalised target without ``stats`` there is no free-running continuation, because the
    statistics of the units to come are unknown.
    """
    normalised, task = model.target_generator.normalises, Continuation(model, given)
    if not normalised and stats is not None:
        raise ValueError(
            f"{model.objective.name} predicts raw pixels and needs no statistics; leave out --stats"
        )
    if stats is not None and not task.given:
        raise ValueError("--stats previous needs a given unit; set --given to 1 or more")
    own, borrowed = (OWN, "previous unit's mean and std") if normalised else ("", "")
    made = [
        Panel("input", task.shown(images), f"{task.given} of {task.total} units"),
        Panel("teacher-forced", task.teacher_forced(images), own, bordered=True),
    ]
    if not normalised or stats is not None:  # else the statistics of units to come are unknown
        made += [Panel("free-running", task.free_running(images), borrowed, bordered=True)]
    return [*made, Panel("truth", images)]


def reconstruction(model: nn.Module, images: Tensor) -> list[Panel]:
    """Make the panels of a reconstruction: visible patches, all patches, and truth.

    In the second panel the visible patches are the true ones. A patch that is predicted and also
    seen, by later predictions, counts as hidden; the panel is then named teacher-forced.
    """
    grid, plan = model.objective.grid, model.objective(len(images), images.device)
    prediction = predicted(model, images, plan)
    encoder = encoded(plan, grid, len(images))
    seen = encoder & prediction.isnan().all(-1)
    kind = "reconstruction" if torch.equal(seen, encoder) else "teacher-forced"
    shown = grid.patchify(images).where(seen[..., None], torch.nan)
    made = filled(shown, prediction)
    normalised = model.target_generator.normalises
    counts = sorted({*seen.sum(1).tolist()})
    number = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(counts[0])
    return [
        Panel("input", grid.unpatchify(shown), f"{number} of {grid.tokens} patches"),
        Panel(f"{kind}, shown pasted", grid.unpatchify(made), OWN if normalised else ""),
        Panel("truth", images),
    ]
