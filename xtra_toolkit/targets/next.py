"""Predict the next unit of the sequence: a token (iGPT, AIM) or a block (XTRA)."""

import torch
from torch import Tensor

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.objective.links import Links
from xtra_toolkit.objective.mask import Mask
from xtra_toolkit.registry import MODELS
from xtra_toolkit.targets.pixels import PixelTarget


class Next(PixelTarget):
    """Predict the units that follow a unit from its outputs, by one predictor for each distance.

    Args:
        look_ahead: The units 1 to ``look_ahead`` later are predicted. The loss is the mean over
            these distances.
        normalise: See :class:`PixelTarget`.
        positioned: Whether each source is told the position of its target; see :class:`Links`.
    """

    def __init__(self, look_ahead: int = 1, normalise: bool = True, positioned: bool = False):
        super().__init__(normalise)
        if look_ahead < 1:
            raise ValueError(f"look_ahead={look_ahead} was given; it must be at least 1")
        self.look_ahead, self.positioned = look_ahead, positioned

    def unit(self, mask: Mask) -> Tensor:
        """Return (N,) integers: positions with the same number are predicted together."""
        raise NotImplementedError

    def pairs(self, mask: Mask, grid: PatchGrid) -> list[Links]:
        """Return a group for each distance and each pair of unit sizes."""
        unit_of_position = self.unit(mask)
        _, sizes = unit_of_position.unique_consecutive(return_counts=True)
        units = torch.arange(len(unit_of_position)).split(sizes.tolist())
        if len(units) <= self.look_ahead:
            raise ValueError(
                f"{type(self).__name__}: this mask makes {len(units)} unit(s) on {grid}; "
                f"look_ahead={self.look_ahead} needs at least {self.look_ahead + 1}: "
                "give the mask smaller units, or the encoder larger images"
            )
        groups = []
        for distance in range(1, self.look_ahead + 1):
            by_sizes: dict[tuple[int, int], list] = {}
            for source, target in zip(units, units[distance:], strict=False):
                by_sizes.setdefault((len(source), len(target)), []).append((source, target))
            for pairs in by_sizes.values():
                sources, targets = (torch.stack(side)[None] for side in zip(*pairs, strict=True))
                groups.append(Links(sources, targets, positioned=self.positioned))
        return groups


@MODELS.register_module()
class NextToken(Next):
    """Position i predicts the token at position i + 1 (iGPT, ICML 2020; AIM, arXiv 2401.08541)."""

    def unit(self, mask: Mask) -> Tensor:
        """Return each position as a unit, whatever the units of the mask are."""
        return torch.arange(len(mask))


@MODELS.register_module()
class NextBlock(Next):
    """Predict the pixels of the next block from the outputs of a block (XTRA, arXiv 2411.15648)."""

    def unit(self, mask: Mask) -> Tensor:
        """Return the units of the mask; each position is a unit if the mask has none."""
        return torch.arange(len(mask)) if mask.unit is None else mask.unit
