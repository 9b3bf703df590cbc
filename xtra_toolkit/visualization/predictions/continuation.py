"""An autoregressive pretrainer continues images from their first units.

In sequence order its mask is a staircase: a position sees a prefix of the sequence, and nothing
later ever changes its output. So a step computes its new positions alone, in encoder and decoder,
and they see everything cached and each other, without a mask.

Shape legend: B images, T tokens of a unit, V values of a token; positions are the sequence's.
"""

import torch
from torch import Tensor, nn

from xtra_toolkit.objective.draw import compile_plan
from xtra_toolkit.objective.mask import Mask
from xtra_toolkit.objective.reach import compute_kv_lengths
from xtra_toolkit.visualization.predictions.key_value_cache import cached
from xtra_toolkit.visualization.predictions.pixels import filled, predicted
from xtra_toolkit.visualization.predictions.unit_sequence import chain, only, refuse_mask, step_plan


class Continuation:
    """How a pretrainer goes on after the first units of an image.

    Args:
        model: a MaskTargetPretrainer in evaluation mode, its target pixels.
        given: units that are known; None: half of them.

    Raises:
        ValueError: the mask is no staircase in one order for all images, the predictions are no
            chain of units, or ``context`` is out of range.
    """

    def __init__(self, model: nn.Module, given: int | None = None):
        objective, device = model.objective, next(model.parameters()).device
        self.model, self.grid, self.target = model, objective.grid, model.target_generator
        self.pair = objective.name
        refuse_mask(objective.structure, self.pair)
        self.units = chain(objective.links, self.pair)
        self._count(objective.structure, given)
        try:
            mask = objective.mask.with_context(self.grid, self.given).to(device)
        except ValueError as error:
            raise ValueError(f"--given {self.given}: {self.pair}: {error}") from error
        self.links = [link.to(device) for link in objective.links]
        self.plan = compile_plan(mask, self.links, self.grid, objective.bounds)
        self.order, self.stops = mask.order, compute_kv_lengths(mask)[0].tolist()
        if self._reads(self.first) > self.known:
            raise ValueError(
                f"{self.pair}: the first {self._reads(self.first)} positions of the sequence see "
                f"each other, and --given {self.given} makes {self.known} of them known; give more"
            )

    def shown(self, images: Tensor) -> Tensor:
        """Images (B, C, height, width), NaN where units are to come."""
        return self.grid.unpatchify(self._start(images))

    def teacher_forced(self, images: Tensor) -> Tensor:
        """Each unit to come, predicted from the true ones; a normalised target's own statistics."""
        patches = filled(self._start(images), predicted(self.model, images, self.plan))
        return self.grid.unpatchify(patches)

    @torch.no_grad()
    def free_running(self, images: Tensor) -> Tensor:
        """Each unit to come, predicted from those that are given and those predicted before.

        Exact for raw pixels. Of a normalised target the mean and standard deviation do not exist
        yet; those of the unit before it, as it stands, are borrowed.
        """
        patches, outputs, done = self._start(images), [], 0
        before = slice(self.units[self.first - 1].start if self.first else self.lead, self.known)
        with cached(self.model):
            for i in range(self.first, len(self.units)):
                while done < self._reads(i):
                    step = step_plan(self.plan, done, self.stops[done])
                    outputs.append(self.model.decode(self.grid.unpatchify(patches), step))
                    done = self.stops[done]
                unit = self.units[i]
                plan = only(self.plan, self.links, unit)
                prediction = self.model.head(torch.cat(outputs, 1), plan)
                place, like = slice(unit.start, unit.stop), self._values(patches, before)
                self._put(patches, place, prediction[unit.group][:, 0], like)
                before = place
        return self.grid.unpatchify(patches)

    def _count(self, mask: Mask, given: int | None) -> None:
        """Units in all, given, and the first to come; those before any prediction come first."""
        position = torch.arange(self.units[0].start)
        unit = position if mask.unit is None else mask.unit[position]
        lead = len(unit[mask.order[position] < self.grid.tokens].unique())
        self.total = lead + len(self.units)
        self.given = max(lead, self.total // 2) if given is None else given
        if not lead <= self.given < self.total:
            raise ValueError(
                f"--given {self.given} units; {self.pair} on {self.grid} has {self.total} units, "
                f"and is continued from {lead} to {self.total - 1} of them"
            )
        self.lead = int(position[unit == unit[-1]][0])  # where the last of those starts
        self.first = self.given - lead
        self.known = self.units[self.first].start

    def _reads(self, i: int) -> int:
        return max(self.stops[source] for source in self.units[i].source_positions)

    def _start(self, images: Tensor) -> Tensor:
        """(B, tokens, V): what is known, and NaN, which would show wherever it were looked at."""
        patches = self.grid.patchify(images).clone()
        patches[:, self._tokens(slice(self.known, None))] = torch.nan
        return patches

    def _tokens(self, place: slice) -> Tensor:
        """Tokens with pixels at a run of positions."""
        tokens = self.order[place]
        return tokens[tokens < self.grid.tokens]

    def _values(self, patches: Tensor, place: slice) -> Tensor:
        """(B, T * V) of patches at a run of positions."""
        return patches[:, self._tokens(place)].flatten(1)

    def _put(self, patches: Tensor, place: slice, prediction: Tensor, like: Tensor) -> None:
        """Write a prediction (B, T * V) into patches, with the statistics of ``like``."""
        pixels = self.target.restore(prediction, like)
        patches[:, self._tokens(place)] = pixels.unflatten(-1, (-1, patches.shape[-1]))
