"""RelativeBias: relative positions of tokens, added to the scores of attention (BEiT).

Shape legend: B images, E positions.
"""

import warnings

import torch
import torch.nn.functional as F
from mmpretrain.models.backbones.beit import RelativePositionBias
from torch import Tensor

from xtra_toolkit.grid import PatchGrid


class RelativeBias(RelativePositionBias):
    """Relative position biases that all layers share, by token, so that any order is right.

    The table has MMPretrain's name and order: a number for each head and each offset of two tokens
    in rows and columns, then three for pairs with the class token. BEiT, arXiv 2106.08254.

    Args:
        grid: The grid of the images.
        heads: Number of attention heads.
    """

    def __init__(self, grid: PatchGrid, heads: int):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*torch.meshgrid")
            super().__init__((grid.rows, grid.cols), heads, with_cls_token=bool(grid.extra))
        self.grid, index = grid, self.relative_position_index
        self.register_buffer("relative_position_index", index, persistent=False)

    def forward(self, tokens: Tensor, grid: PatchGrid) -> Tensor:
        """Return the biases (B or 1, heads, E, E) of tokens (B or 1, E) of a grid.

        Raises:
            ValueError: The grid is not that of the training.
        """
        if (grid.rows, grid.cols) != (self.grid.rows, self.grid.cols):
            raise ValueError(
                f"images of {grid} were given, and the relative positions of this encoder are "
                f"those of {self.grid}; give images of that size"
            )
        # the class token comes first; registers have the relative positions of a class token
        row = torch.where(tokens < grid.tokens, tokens + bool(grid.extra), 0)
        index = self.relative_position_index[row[:, :, None], row[:, None, :]]
        biases = F.embedding(index, self.relative_position_bias_table)
        return biases.permute(0, 3, 1, 2).contiguous()
