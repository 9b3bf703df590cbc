"""Continue images from their first units with an autoregressive model.

In sequence order the mask is a staircase: a position sees a prefix of the sequence, and no later
position changes its output. A step therefore computes only its new positions, in encoder and
decoder. They attend to all cached positions and to each other, without a mask.

Shape legend: B images, T tokens of a unit, V values of a token. Positions count along the sequence.
"""

import torch
from torch import Tensor, nn

from xtra_toolkit.objective.draw import compile_plan
from xtra_toolkit.objective.mask import Mask
from xtra_toolkit.objective.reach import compute_kv_lengths
from xtra_toolkit.visualization.predictions.key_value_cache import cached
from xtra_toolkit.visualization.predictions.pixels import filled, predicted
from xtra_toolkit.visualization.predictions.unit_sequence import (
    chain,
    only,
    refuse_mask,
    share_order,
    step_plan,
)


class Continuation:
    """Continue images by a model, from a number of given units.

    Args:
        model: A ``MaskTargetPretrainer`` in evaluation mode whose target is pixels.
        given: Number of units that are known. None gives half of them.

    Raises:
        ValueError: If the mask is no staircase in one order for all images, the predictions are no
            chain of units, or ``given`` is out of range.
    """

    def __init__(self, model: nn.Module, given: int | None = None):
        objective, device = model.objective, next(model.parameters()).device
        self.model, self.grid, self.target = model, objective.grid, model.target_generator
        self.name = objective.name
        factory, structure = objective.factory, objective.structure
        if structure.order.ndim > 1:  # evaluation may have one order for all images
            structure = share_order(factory(self.grid, 2, None))
        refuse_mask(structure, self.name)
        if model.backbone.rel_pos_bias is not None:
            raise ValueError(
                f"{self.name}: the encoder has relative positions, with which outputs cannot be "
                "cached; xtra complete needs positions='learned' or 'sincos'"
            )
        self.units = chain(objective.links, self.name)
        self._count(structure, given)
        try:
            mask = share_order(factory.with_context(self.grid, self.given)).to(device)
        except ValueError as error:
            raise ValueError(f"--given {self.given}: {self.name}: {error}") from error
        self.links = [link.to(device) for link in objective.links]
        self.plan = compile_plan(mask, self.links, self.grid, objective.bounds)
        self.order, self.stops = mask.order, compute_kv_lengths(mask)[0].tolist()
        if self._reads(self.first) > self.known:
            raise ValueError(
                f"{self.name}: the first {self._reads(self.first)} positions of the sequence see "
                f"each other, but --given {self.given} makes only {self.known} of them known; "
                "increase --given"
            )

    def shown(self, images: Tensor) -> Tensor:
        """Return images (B, C, height, width) with NaN in the units that are to be predicted."""
        return self.grid.unpatchify(self._start(images))

    def teacher_forced(self, images: Tensor) -> Tensor:
        """Predict each unit from the true units before it.

        A normalised target is restored with the mean and standard deviation of the true unit.

        Args:
            images: (B, C, height, width), normalised as in training.

        Returns:
            Images of the same shape.
        """
        patches = filled(self._start(images), predicted(self.model, images, self.plan))
        return self.grid.unpatchify(patches)

    @torch.no_grad()
    def free_running(self, images: Tensor) -> Tensor:
        """Predict each unit from the given ones and from those predicted before it.

        This is exact for raw pixels. For a normalised target the mean and standard deviation of a
        unit are not known yet, so those of the unit before it, given or predicted, are used.

        Args:
            images: (B, C, height, width), normalised as in training.

        Returns:
            Images of the same shape.
        """
        patches, outputs, done = self._start(images), [], 0
        previous = slice(self.units[self.first - 1].start if self.first else self.lead, self.known)
        with cached(self.model):
            for i in range(self.first, len(self.units)):
                while done < self._reads(i):
                    step = step_plan(self.plan, done, self.stops[done])
                    outputs.append(self.model.decode(self.grid.unpatchify(patches), step))
                    done = self.stops[done]
                unit = self.units[i]
                plan = only(self.plan, self.links, unit)
                prediction = self.model.head(torch.cat(outputs, 1), plan)
                positions = slice(unit.start, unit.stop)
                like = self._values(patches, previous)
                self._put(patches, positions, prediction[unit.group][:, 0], like)
                previous = positions
        return self.grid.unpatchify(patches)

    def _count(self, mask: Mask, given: int | None) -> None:
        """Count the units: in all, given, and leading ones, which no prediction produces."""
        position = torch.arange(self.units[0].start)
        unit = position if mask.unit is None else mask.unit[position]
        lead = len(unit[mask.order[position] < self.grid.tokens].unique())
        self.total = lead + len(self.units)
        self.given = max(lead, self.total // 2) if given is None else given
        if not lead <= self.given < self.total:
            raise ValueError(
                f"--given {self.given} units; {self.name} on {self.grid} has {self.total} units, "
                f"and is continued from {lead} to {self.total - 1} of them"
            )
        self.lead = int(position[unit == unit[-1]][0])  # start of the last leading unit
        self.first = self.given - lead
        self.known = self.units[self.first].start

    def _reads(self, i: int) -> int:
        """Return how many positions must be computed before unit ``i`` is predicted."""
        return max(self.stops[source] for source in self.units[i].source_positions)

    def _start(self, images: Tensor) -> Tensor:
        """Return patches (B, tokens, V), NaN if unknown, so that reading one would show."""
        patches = self.grid.patchify(images).clone()
        patches[:, self._tokens(slice(self.known, None))] = torch.nan
        return patches

    def _tokens(self, positions: slice) -> Tensor:
        """Return the tokens with pixels at contiguous positions."""
        tokens = self.order[positions]
        return tokens[tokens < self.grid.tokens]

    def _values(self, patches: Tensor, positions: slice) -> Tensor:
        """Return the patches at contiguous positions as (B, T * V)."""
        return patches[:, self._tokens(positions)].flatten(1)

    def _put(self, patches: Tensor, positions: slice, prediction: Tensor, like: Tensor) -> None:
        """Write a prediction (B, T * V) into patches, restored with the statistics of ``like``."""
        pixels = self.target.restore(prediction, like)
        patches[:, self._tokens(positions)] = pixels.unflatten(-1, (-1, patches.shape[-1]))
