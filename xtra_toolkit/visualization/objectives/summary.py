"""Summary: everything that ``xtra show`` says of a config."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger

from xtra_toolkit.models import MaskTargetPretrainer
from xtra_toolkit.objective.compiler import ObjectiveRefusedError, Refusal
from xtra_toolkit.visualization.objectives import text
from xtra_toolkit.visualization.objectives.build import build, depth_of, read_config
from xtra_toolkit.visualization.objectives.cost import FLOPS, ModelPart, backends, parts
from xtra_toolkit.visualization.objectives.prediction import Prediction, leaking, pick
from xtra_toolkit.visualization.objectives.title import pair
from xtra_toolkit.visualization.objectives.view import View

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass
class Summary:
    """A config as it is shown.

    Args:
        title: the pair, as its config gives it.
        notes: (name, sentence) each.
        view: the mask.
        prediction: one of it; None where a pair was refused that does not leak.
        parts: empty where the pair was refused.
        refusal: the certificate's; None where it certifies.
    """

    title: str
    notes: list[tuple[str, str]]
    view: View
    prediction: Prediction | None
    parts: list[ModelPart] = field(default_factory=list)
    refusal: str | None = None

    def lines(self) -> Iterator[str]:
        """What is printed."""
        width = min(100, text.columns())
        yield from text.wrapped(f"{self.title} on {self.view.grid}", width)
        yield ""
        yield from self.facts(width)
        yield from ("", "order", *text.order(self.view))
        yield from ("", "attention", *text.attention(self.view))

    def facts(self, width: int) -> Iterator[str]:
        """The numbers, in lines of at most ``width``."""
        for name, sentence in self.notes:
            yield text.entry(name, sentence, width)
        if self.parts:
            yield from ("", *text.table(self.parts))

    def figure(self) -> Figure:
        """The picture, with what is certified or refused below it."""
        from xtra_toolkit.visualization.objectives.figure import (
            draw,  # matplotlib is slow to import
        )

        return draw(self.view, self.prediction, self.title, self.notes[0][1])


def summarise(
    path: Path, options: Sequence[str] = (), predict: int | None = None, seed: int = 0
) -> Summary:
    """Read a config, build and certify its model; ValueError where there is nothing to show."""
    return summary_of(read_config(path, options), path, predict, seed)


def summary_of(config: Config, path: Path, predict: int | None = None, seed: int = 0) -> Summary:
    """As :func:`summarise`, of a config that was read from ``path`` already."""
    MMLogger.get_instance("xtra_show", log_level="ERROR")  # building prints the certificate
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
    mask = objective.mask(grid, 1, torch.Generator().manual_seed(seed))
    prediction = pick(mask, objective.links, grid, depth_of(model), predict)
    view = View.of(mask, grid, objective.bounds.num_computed, prediction.row)
    _, *certified = objective.certificate.split("; ")
    notes = [("certificate", "; ".join(certified)), ("dead work", dead(view))]
    if mask.attend is not None:
        notes.append(("mask", "a predicate says who may attend to whom, in place of the steps"))
    if objective.random:
        which = (
            f", mask {prediction.row + 1} of {mask.masks_per_image}"
            if mask.masks_per_image > 1
            else ""
        )
        notes.append(("draw", f"the mask is random; this is one draw of it, seed {seed}{which}"))
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
    view = View.of(refusal.mask, refusal.grid, row=0 if prediction is None else prediction.row)
    return Summary(pair(config.model), notes, view, prediction, refusal=refusal.reason)


def dead(view: View) -> str:
    """The share of positions that nothing reads, and what is hidden."""
    length = len(view.mask)
    rest = length - view.num_computed
    text = "none: a prediction reads as far as the last position"
    if rest:
        text = (
            f"{rest} of {length} positions ({100 * rest / length:.1f} %) are read by no prediction "
            "and never computed, in encoder, decoder and head"
        )
    hidden = int(view.hidden.sum())
    return text + (f"; {hidden} hidden ones never enter the encoder" if hidden else "")
