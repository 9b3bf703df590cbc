"""The panels of a picture: what was shown, what a pretrainer makes of it, and the truth."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from xtra_toolkit.visualization.predictions.continuation import Continuation
from xtra_toolkit.visualization.predictions.pixels import encoded, filled, predicted, true_pixels

OWN = "target's own mean and std"


@dataclass
class Panel:
    """A column of the picture.

    Args:
        name: what it is.
        images: (B, C, height, width) as the model takes them, NaN for nothing.
        note: below the name, how it came about.
        bordered: a line says where what was given ends.
    """

    name: str
    images: Tensor
    note: str = ""
    bordered: bool = False

    def error(self, shown: Tensor, truth: Tensor) -> Tensor:
        """(B,) mean squared error where nothing was shown."""
        hidden = shown.isnan()
        return ((self.images - truth) ** 2).where(hidden, 0).sum((1, 2, 3)) / hidden.sum((1, 2, 3))


def panels(
    model: nn.Module, images: Tensor, given: int | None = None, stats: str | None = None
) -> list[Panel]:
    """The panels of a pretrainer's kind: hidden patches are reconstructed, others continued.

    Args:
        model: a MaskTargetPretrainer in evaluation mode.
        images: (B, C, height, width), normalised as in training.
        given: units that are known, where images are continued; None: half of them.
        stats: ``'previous'``: where the target is normalised, a unit borrows the mean and standard
            deviation of the one before it.

    Raises:
        ValueError: the target is no pixels, or the options do not fit the pair.
    """
    if true_pixels(model, images) is not images:
        raise ValueError(
            f"{type(model.target_generator).__name__} predicts a filtered image, which cannot be "
            "fed back; xtra complete needs the pixels themselves"
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
    """Input, teacher-forced prediction, free-running continuation and truth."""
    normalised, task = model.target_generator.normalises, Continuation(model, given)
    if normalised and stats is None:
        raise ValueError(
            f"{model.objective.name} predicts units less their mean and by their standard "
            "deviation, which a unit to come does not have yet; borrow those of the unit before it "
            "(--stats previous; the picture says so), or train on raw pixels (normalise=False)"
        )
    if not normalised and stats is not None:
        raise ValueError(
            f"{model.objective.name} predicts raw pixels and needs no statistics; leave out --stats"
        )
    if normalised and not task.given:
        raise ValueError("no unit is given whose mean could be borrowed; --given 1 or more")
    own, borrowed = (OWN, "previous unit's mean and std") if normalised else ("", "")
    return [
        Panel("input", task.shown(images), f"{task.given} of {task.total} units"),
        Panel("teacher-forced", task.teacher_forced(images), own, bordered=True),
        Panel("free-running", task.free_running(images), borrowed, bordered=True),
        Panel("truth", images),
    ]


def reconstruction(model: nn.Module, images: Tensor) -> list[Panel]:
    """Shown patches; hidden ones reconstructed, the shown ones pasted; and truth."""
    grid, plan = model.objective.grid, model.objective(len(images), images.device)
    seen = encoded(plan, grid, len(images))
    shown = grid.patchify(images).where(seen[..., None], torch.nan)
    made = filled(shown, predicted(model, images, plan))
    normalised = model.target_generator.normalises
    return [
        Panel("input", grid.unpatchify(shown), f"{int(seen[0].sum())} of {grid.tokens} patches"),
        Panel("reconstruction, shown pasted", grid.unpatchify(made), OWN if normalised else ""),
        Panel("truth", images),
    ]
