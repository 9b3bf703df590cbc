"""Split a loss by steps of the sequence or rows of the grid, and by spatial frequency.

Shape legend: B images; G predictions of a group, of T tokens each; V values of a token, of C
channels and p x q pixels.
"""

import math

import torch
from mmengine.dist import all_reduce
from torch import Tensor

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.objective.compiler import CompiledObjective
from xtra_toolkit.objective.plan import Group
from xtra_toolkit.objective.target import Target

RANGES = 16  # largest number of ranges
BANDS = 8  # each of 1/16 cycle per pixel; the last includes all higher frequencies


class Ranges:
    """Assign each prediction to one of at most 16 ranges of equal size.

    If the mask has several steps, ranges are of the predicted units in the order of the sequence.
    Unit 0 is the first one; it has no prediction if each unit predicts the next. A mask of one
    step, such as MAE's, has no order: ranges are then rows of the grid, and a unit belongs to the
    row of its first token.

    Args:
        objective: The objective whose predictions are assigned.
    """

    def __init__(self, objective: CompiledObjective):
        self.grid: PatchGrid = objective.grid
        first = [link.target_positions[0, :, 0].contiguous() for link in objective.links]
        self.sequence = len(objective.structure.step.unique()) > 1
        units = torch.cat(first).unique()  # sorted
        self.first_is_predicted = int(units[0] == 0)
        self.count = len(units) + 1 - self.first_is_predicted if self.sequence else self.grid.rows
        self._numbers = [torch.searchsorted(units, f) + 1 - self.first_is_predicted for f in first]
        width = min(RANGES, self.count)
        self.names = [self._name(k, width) for k in range(width)]

    def of(self, group: Group, number: int) -> Tensor:
        """Return (B or 1, G), the range of each prediction of group ``number`` of a plan."""
        if self.sequence:
            index = self._numbers[number][None].to(group.tokens.device)
        else:
            index = group.tokens[..., 0] // self.grid.cols
        return index * len(self.names) // self.count

    def _name(self, k: int, ranges: int) -> str:
        low, high = (-(-edge * self.count // ranges) for edge in (k, k + 1))
        digits = max(3, len(str(self.count - 1)))
        kind = "loss_step" if self.sequence else "loss_row"
        last = f"-{high - 1:0{digits}d}" if high - low > 1 else ""
        return f"{kind}/{low:0{digits}d}{last}"


class Bands:
    """Compute the energy of residuals by radial frequency, by a 2-D DCT of each patch.

    Wave u of a DCT of p pixels has u / 2p cycles per pixel. The radial frequency is the root of
    the sum of the squares along both sides. Band b holds b/16 to (b + 1)/16 cycles per pixel; the
    last one also holds all above. The DCT is orthonormal, so by Parseval's theorem the bands of a
    residual add up to the sum of its squares.

    Args:
        grid: The grid of the images.
    """

    def __init__(self, grid: PatchGrid):
        self.shape = grid.channels, *grid.patch
        radius = torch.hypot(*torch.meshgrid(*map(waves, grid.patch), indexing="ij"))
        self.index = (radius * 2 * BANDS).long().clamp(max=BANDS - 1)
        self.present = self.index.unique().tolist()
        self.names = [f"loss_band/{b}" for b in self.present]

    @staticmethod
    def serve(target: Target, grid: PatchGrid) -> bool:
        """Return whether the values of a target are pixels and a patch has more than one pixel."""
        return target.pixels and target.local and max(grid.patch) > 1

    def of(self, residual: Tensor, weight: Tensor) -> Tensor:
        """Return the weighted mean of squares in each band that is present.

        Args:
            residual: (B, G, T * V).
            weight: (B, G).
        """
        rows, cols = (dct(n).to(residual.device) for n in self.shape[1:])
        coefficients = rows @ residual.double().unflatten(-1, (-1, *self.shape)) @ cols.T
        energy = torch.einsum("bgtcuv,bg->uv", coefficients.square(), weight) / residual.shape[-1]
        index = self.index.flatten().to(energy.device)
        return energy.new_zeros(BANDS).index_add_(0, index, energy.flatten())[self.present]


def waves(n: int) -> Tensor:
    """Return (n,) the frequencies of a DCT of n pixels, in cycles per pixel."""
    return torch.arange(n, dtype=torch.float64) / (2 * n)


def dct(n: int) -> Tensor:
    """Return the orthonormal matrix (n, n) of a DCT-II, with one wave in each row."""
    positions = torch.arange(n, dtype=torch.float64) + 0.5
    matrix = torch.cos(2 * math.pi * waves(n)[:, None] * positions) * math.sqrt(2 / n)
    matrix[0] *= math.sqrt(0.5)
    return matrix


def link_weights(
    loss_mask: Tensor | None, shape: tuple[int, int], reduction: str, to: Tensor
) -> Tensor:
    """Return the weights (B, G) of the predictions in the loss of their group.

    They add up to 1 in the mean over processes.

    Args:
        loss_mask: (B or 1, G) bool, predictions that count in the loss; None if all do.
        shape: (B, G).
        reduction: Reduction of the head.
        to: A tensor on the device of the result.
    """
    weights = torch.ones(1, 1) if loss_mask is None else loss_mask
    weights = weights.to(to.device, torch.float64).expand(shape)
    if reduction == "image":
        weights = weights / weights.sum(1, keepdim=True).clamp(min=1)
    total = weights.sum()
    all_reduce(total, "mean")
    return weights / total.clamp(min=1e-6)
