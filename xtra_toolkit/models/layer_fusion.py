"""Add up the outputs of several layers of an encoder, with learned weights.

Shape legend: B images, N positions, D width, F fused layers.
"""

from collections.abc import Sequence

import torch
from mmengine.model import BaseModule, ModuleList
from mmpretrain.models.utils import build_norm_layer
from torch import Tensor, nn


class LayerFusion(BaseModule):
    """Sum the outputs of several layers with learned weights (MFF, arXiv 2308.00261).

    The outputs of each earlier layer are projected by a Linear layer; those of the last one are
    taken as they are. The weights are a softmax of learned numbers, and equal at the start.

    Args:
        width: Width of the encoder, D.
        indices: Indices of the earlier layers, ascending from 0.
        depth: Number of layers of the encoder.

    Raises:
        ValueError: The indices are not ascending indices of layers before the last one.
    """

    def __init__(self, width: int, indices: Sequence[int], depth: int):
        super().__init__()
        self.indices = tuple(indices)
        if not set(self.indices) <= set(range(depth - 1)) or list(self.indices) != sorted(
            set(self.indices)
        ):
            raise ValueError(
                f"fused_layers={list(self.indices)} was given; they must be ascending indices of "
                f"layers before the last one, 0 to {depth - 2}, whose outputs are added to those "
                "of the last one"
            )
        self.projections = ModuleList(nn.Linear(width, width) for _ in self.indices)
        # of four dimensions as in MFF, so that it has the weight decay of matrices
        self.weights = nn.Parameter(torch.ones(len(self.indices) + 1, 1, 1, 1))

    def forward(self, outputs: Sequence[Tensor]) -> Tensor:
        """Return the weighted sum (B, N, D) of the F + 1 outputs (B, N, D), the last one's last."""
        *earlier, last = outputs
        weights = self.weights.softmax(0)
        total = weights[-1] * last
        for weight, projection, x in zip(weights, self.projections, earlier, strict=False):
            total = total + weight * projection(x)
        return total


def drop_fusion(vit: nn.Module, state_dict: dict, prefix: str, *_: object) -> None:
    """Remove the fusion of a checkpoint if this encoder has none, since features are unfused."""
    if vit.fusion is None:
        for name in [name for name in state_dict if name.startswith(f"{prefix}fusion.")]:
            del state_dict[name]


class LayerWeights(BaseModule):
    """Make a weighted and normalised sum of several layers' outputs for each layer of a decoder.

    Source: CrossMAE, arXiv 2401.14391.

    Args:
        width: Width of the encoder, D.
        inputs: Number of outputs that are summed.
        sums: Number of sums.
        norm_cfg: Config of the norm of each sum.
    """

    def __init__(self, width: int, inputs: int, sums: int, norm_cfg: dict):
        super().__init__()
        self.linear = nn.Linear(inputs, sums, bias=False)
        self.norms = ModuleList(build_norm_layer(norm_cfg, width) for _ in range(sums))

    def forward(self, outputs: Sequence[Tensor]) -> list[Tensor]:
        """Return the sums, (B, N, D) each, of outputs (B, N, D)."""
        sums = self.linear(torch.stack(list(outputs), dim=-1)).unbind(-1)
        return [norm(x) for norm, x in zip(self.norms, sums, strict=True)]
