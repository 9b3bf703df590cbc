"""Summary: everything that ``xtra show`` prints and draws of a config."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger

from xtra_toolkit.models import MaskTargetPretrainer
from xtra_toolkit.objective.compiler import ObjectiveRefusedError, Refusal
from xtra_toolkit.visualization.objectives import text
from xtra_toolkit.visualization.objectives.build import build, depth_of
from xtra_toolkit.visualization.objectives.cost import FLOPS, ModelPart, backends, parts
from xtra_toolkit.visualization.objectives.prediction import Prediction, leaking, pick
from xtra_toolkit.visualization.objectives.title import pair
from xtra_toolkit.visualization.objectives.view import View

PANELS = ("order", "prediction", "attention", "raster")  # of a figure


@dataclass
class Summary:
    """Everything that is shown of a config.

    Args:
        title: The mask and the target as the config gives them.
        notes: Facts about the objective, as (name, sentence).
        view: The mask.
        prediction: A prediction under the mask. None if the objective was refused for another
            reason than a leak.
        parts: Costs of the parts of the model; empty if the objective was refused.
        refusal: Reason of the refusal; None if the objective was certified.
        name: Name of the config, which is drawn above its panels. By default there is none.
    """

    title: str
    notes: list[tuple[str, str]]
    view: View
    prediction: Prediction | None
    parts: list[ModelPart] = field(default_factory=list)
    refusal: str | None = None
    name: str = ""

    def lines(self) -> Iterator[str]:
        """Yield the lines to print."""
        width = min(100, text.columns())
        yield from text.wrapped(f"{self.title} on {self.view.grid}", width)
        yield ""
        yield from self.facts(width)
        yield from ("", "order", *text.order(self.view))
        yield from ("", "attention", *text.attention(self.view))

    def facts(self, width: int) -> Iterator[str]:
        """Yield the notes, wrapped to ``width`` characters, and the table of the parts."""
        for name, sentence in self.notes:
            yield text.entry(name, sentence, width)
        if self.parts:
            yield from ("", *text.table(self.parts))


def summarise(config: Config, path: Path, predict: int | None = None, seed: int = 0) -> Summary:
    """Build the model of a pretraining config and certify its objective.

    Args:
        config: The config.
        path: Its file, for messages.
        predict: Number of the prediction to show; None chooses one.
        seed: Seed of the draw of a random mask.

    Raises:
        ValueError: If the model cannot be built.
    """
    if not MMLogger.check_instance_created("xtra_show"):  # building prints the certificate
        MMLogger.get_instance("xtra_show", log_level="ERROR")
    try:
        model = build(config)
    except ObjectiveRefusedError as error:
        return _refused(config, error.refusal)
    except (KeyError, TypeError) as error:
        raise ValueError(f"the model of {path} cannot be built: {error.args[0]}") from error
    return _certified(config, model, predict, seed)


def _certified(
    config: dict, model: MaskTargetPretrainer, predict: int | None, seed: int
) -> Summary:
    objective, grid = model.objective, model.backbone.grid
    mask = objective.factory(grid, 1, torch.Generator().manual_seed(seed))
    bounds = objective.bounds
    prediction = pick(mask, objective.links, grid, depth_of(model), predict, bounds.mask_tokens)
    cross = model.with_neck and model.neck.cross
    view = View.of(mask, grid, bounds.num_computed, prediction.row, bounds.mask_tokens, cross)
    _, *certified = objective.certificate.split("; ")
    notes = [("certificate", "; ".join(certified)), ("dead work", dead(view))]
    if mask.has_predicate:
        notes.append(("mask", "a predicate (`attend`) replaces the rule of the steps"))
    if objective.random:
        draw = f"the mask is random; this is one draw of it, seed {seed}"
        if mask.masks_per_image > 1:
            draw += f", mask {prediction.row + 1} of {mask.masks_per_image}"
        notes.append(("draw", draw))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    notes += [
        ("prediction", prediction.sentence(grid)),
        ("FLOPs", FLOPS),
        ("back ends", backends(model, device)),
    ]
    return Summary(pair(config.model), notes, view, prediction, parts(model, device))


def _refused(config: dict, refusal: Refusal) -> Summary:
    if refusal.mask is None:
        raise ObjectiveRefusedError(refusal)
    prediction = leaking(refusal)
    notes = [("refused", refusal.reason)]
    if prediction is not None:
        notes.append(("leak", prediction.sentence(refusal.grid)))
    row = 0 if prediction is None else prediction.row
    view = View.of(refusal.mask, refusal.grid, row=row, mask_tokens=refusal.mask_tokens)
    return Summary(pair(config.model), notes, view, prediction, refusal=refusal.reason)


def dead(view: View) -> str:
    """Describe the positions that no prediction reads, and the hidden ones."""
    length = len(view.mask)
    rest = length - view.num_computed
    text = "none: a prediction reads up to the last position"
    if rest:
        text = (
            f"{rest} of {length} positions ({100 * rest / length:.1f} %) are read by no prediction "
            "and never computed, in encoder, decoder and head"
        )
    if view.mask_tokens:
        masked = int((~view.mask.visible_or_all()).sum())
        return f"{text}; mask tokens stand for {masked} hidden ones in the encoder"
    hidden = int(view.hidden.sum())
    return text + (f"; {hidden} hidden ones never enter the encoder" if hidden else "")
