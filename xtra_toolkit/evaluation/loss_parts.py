"""The parts of a loss: by steps of the sequence or rows of the grid, and by spatial frequency.

Shape legend: B images, G predictions of a group, T tokens of one, V values of a token, of C
channels and p x q pixels; K ranges.
"""

import math

import torch
from mmengine.dist import all_reduce
from torch import Tensor

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.objective.compiler import CompiledObjective
from xtra_toolkit.objective.plan import Group
from xtra_toolkit.objective.target import Target

RANGES = 16  # at most
BANDS = 8  # of 1/16 cycle per pixel each; the last takes all above


class Ranges:
    """Which range a prediction belongs to, of at most 16 equal ones.

    Where the mask has steps: of the units of the sequence that are predicted, in its order. Number
    0 is the first, which nothing predicts where each unit predicts the next. Under a mask of one
    step, MAE's for instance, there is no order: rows of the grid, of a unit its first token's.
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
        """(B or 1, G): the range of each prediction of a plan's group."""
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
    """The energy of residuals by radial frequency, of an orthonormal 2-D DCT of each patch.

    A DCT's wave u of p pixels has u / 2p cycles per pixel; the radius is the root of the sum of
    both squares. Band b holds b/16 to (b + 1)/16, the last all above 7/16 too. By Parseval the
    bands of a residual add up to the sum of its squares.
    """

    def __init__(self, grid: PatchGrid):
        self.shape = grid.channels, *grid.patch
        radius = torch.hypot(*torch.meshgrid(*map(waves, grid.patch), indexing="ij"))
        self.index = (radius * 2 * BANDS).long().clamp(max=BANDS - 1)
        self.present = self.index.unique().tolist()
        self.names = [f"loss_band/{b}" for b in self.present]

    @staticmethod
    def serve(target: Target, grid: PatchGrid) -> bool:
        """Are the target's values pixels, and has a patch more than its mean?"""
        return target.pixels and target.local and max(grid.patch) > 1

    def of(self, residual: Tensor, weight: Tensor) -> Tensor:
        """(B, G, T * V) and (B, G) to each present band's weighted mean of squares."""
        rows, cols = (dct(n).to(residual.device) for n in self.shape[1:])
        waves = rows @ residual.double().unflatten(-1, (-1, *self.shape)) @ cols.T
        energy = torch.einsum("bgtcuv,bg->uv", waves.square(), weight) / residual.shape[-1]
        index = self.index.flatten().to(energy.device)
        return energy.new_zeros(BANDS).index_add_(0, index, energy.flatten())[self.present]


def waves(n: int) -> Tensor:
    """(n,) frequencies of a DCT of n pixels, in cycles per pixel."""
    return torch.arange(n, dtype=torch.float64) / (2 * n)


def dct(n: int) -> Tensor:
    """(n, n), orthonormal: a wave for each row (DCT-II)."""
    places = torch.arange(n, dtype=torch.float64) + 0.5
    matrix = torch.cos(2 * math.pi * waves(n)[:, None] * places) * math.sqrt(2 / n)
    matrix[0] *= math.sqrt(0.5)
    return matrix


def link_weights(
    loss_mask: Tensor | None, shape: tuple[int, int], reduction: str, to: Tensor
) -> Tensor:
    """(B, G): how much each link counts in its group's loss; the mean over processes adds to 1.

    Args:
        live, reduction: of the group, and of the head.
        shape: (B, G).
        to: whose device they are on.
    """
    loss_mask = torch.ones(1, 1) if loss_mask is None else loss_mask
    loss_mask = loss_mask.to(to.device, torch.float64).expand(shape)
    if reduction == "image":
        loss_mask = loss_mask / loss_mask.sum(1, keepdim=True).clamp(min=1)
    count = loss_mask.sum()
    all_reduce(count, "mean")
    return loss_mask / count.clamp(min=1e-6)
