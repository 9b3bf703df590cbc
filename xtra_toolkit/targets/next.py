"""The next unit of the sequence: a token (iGPT, AIM) or a block (XTRA)."""

import torch
from torch import Tensor

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.objective.links import Links
from xtra_toolkit.objective.mask import Mask
from xtra_toolkit.registry import MODELS
from xtra_toolkit.targets.pixels import PixelTarget


class Next(PixelTarget):
    """The outputs of a unit predict the unit ``distance`` later, one head for each distance.

    Args:
        look_ahead: distances 1 to ``look_ahead`` are predicted; the loss is the mean over them.
        normalise: see :class:`PixelTarget`.
        positioned: tell each source where its target lies; see :class:`Links`.
    """

    def __init__(self, look_ahead: int = 1, normalise: bool = True, positioned: bool = False):
        super().__init__(normalise)
        if look_ahead < 1:
            raise ValueError(f"look_ahead={look_ahead} was given; it must be at least 1")
        self.look_ahead, self.positioned = look_ahead, positioned

    def unit(self, mask: Mask) -> Tensor:
        """(N,) whole numbers: what is predicted together."""
        raise NotImplementedError

    def pairs(self, mask: Mask, grid: PatchGrid) -> list[Links]:
        """A group for each distance and each shape of units."""
        units = self.unit(mask)
        _, sizes = units.unique_consecutive(return_counts=True)
        parts = torch.arange(len(units)).split(sizes.tolist())
        if len(parts) <= self.look_ahead:
            raise ValueError(
                f"{type(self).__name__}: this mask makes {len(parts)} unit(s) on {grid}; looking "
                f"{self.look_ahead} ahead needs at least {self.look_ahead + 1}"
            )
        groups = []
        for distance in range(1, self.look_ahead + 1):
            shapes: dict[tuple[int, int], list] = {}
            for source, target in zip(parts, parts[distance:], strict=False):
                shapes.setdefault((len(source), len(target)), []).append((source, target))
            groups += [
                Links(
                    *(torch.stack(side)[None] for side in zip(*pairs, strict=True)),
                    positioned=self.positioned,
                )
                for pairs in shapes.values()
            ]
        return groups


@MODELS.register_module()
class NextToken(Next):
    """Position i predicts the token at position i + 1 (iGPT, ICML 2020; AIM, arXiv 2401.08541)."""

    def unit(self, mask: Mask) -> Tensor:
        """Every position alone, whatever the mask says."""
        return torch.arange(len(mask))


@MODELS.register_module()
class NextBlock(Next):
    """A block's outputs predict the pixels of the next block (XTRA, arXiv 2411.15648)."""

    def unit(self, mask: Mask) -> Tensor:
        """The mask's units; without any, every position alone."""
        return torch.arange(len(mask)) if mask.unit is None else mask.unit
