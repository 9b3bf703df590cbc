"""SumOfHeads: a head for each target of a SumOfTargets, and the weighted sum of their losses.

Shape legend: B images, R positions that the head reads, W width, G predictions, T targets, V values
of a token.
"""

import math
from dataclasses import replace

from mmengine.model import BaseModule, ModuleList
from torch import Tensor

from xtra_toolkit.models.prediction_head import PredictionHead
from xtra_toolkit.objective.plan import Plan
from xtra_toolkit.registry import MODELS


@MODELS.register_module()
class SumOfHeads(BaseModule):
    """Predict each target by a head of its own, and add up the losses.

    Args:
        heads: Configs of the heads, one for each target, in the order of the targets.
        weights: What each loss is multiplied by. Default: 1.
        reads: For each head the index of the output that it reads, of a decoder that returns a
            list of outputs (CAE). Default: the decoder returns one.
        shapes: (in, out) widths of each group of predictions. The pretrainer derives them.
        parts: The target that each group predicts. The pretrainer derives them.

    Raises:
        ValueError: There are other numbers of weights and heads, or a weight is not above 0.
    """

    def __init__(
        self,
        heads: list[dict],
        weights: list[float] | None = None,
        reads: list[int] | None = None,
        *,
        shapes: list[tuple[int, int]],
        parts: list[int],
        init_cfg: list | dict | None = None,
    ):
        super().__init__(init_cfg)
        self.weights = [1.0] * len(heads) if weights is None else list(weights)
        if not all(0 < weight < math.inf for weight in self.weights):
            raise ValueError(f"weights={self.weights} was given; each must be finite and above 0")
        if len(self.weights) != len(heads):
            raise ValueError(f"{len(self.weights)} weights were given for {len(heads)} heads")
        if reads is not None and len(reads) != len(heads):
            raise ValueError(f"reads={list(reads)} was given for {len(heads)} heads")
        self.reads = reads
        of_heads = [
            [shape for shape, part in zip(shapes, parts, strict=True) if part == i]
            for i in range(len(heads))
        ]
        self.heads = ModuleList(
            MODELS.build(dict(head, shapes=own)) for head, own in zip(heads, of_heads, strict=True)
        )

    def forward(self, x: Tensor, plan: Plan) -> list[Tensor]:
        """Return the predictions of each group, (B, G, T * V), from outputs (B, R, W)."""
        return [
            made
            for i, head in enumerate(self.heads)
            for made in head(self._read(x, i), _only(plan, i))
        ]

    def _read(self, x: Tensor | list[Tensor], head: int) -> Tensor:
        """Return the output that a head reads."""
        return x if self.reads is None else x[self.reads[head]]

    def loss(self, x: Tensor, plan: Plan, target_values: list[Tensor]) -> dict[str, Tensor]:
        """Compute the weighted sum of the losses, ``dict(loss=scalar)``.

        Args:
            x: (B, R, W) outputs, or a list of them if the heads have ``reads``.
            plan: The plan of the batch.
            target_values: (B, G, T * V) values of each group, as the loss compares them.
        """
        total = 0
        for i, (head, weight) in enumerate(zip(self.heads, self.weights, strict=True)):
            groups = zip(plan.groups, target_values, strict=True)
            values = [v for group, v in groups if group.part == i]
            total = total + weight * head.loss(self._read(x, i), _only(plan, i), values)["loss"]
        return dict(loss=total)

    @property
    def random(self) -> bool:
        """Return whether the loss of a head draws random numbers."""
        return any(head.random for head in self.heads)

    def of_part(self, part: int) -> PredictionHead:
        """Return the head of one target."""
        return self.heads[part]


def _only(plan: Plan, part: int) -> Plan:
    """Return the plan with the groups of one target."""
    return replace(plan, groups=[group for group in plan.groups if group.part == part])
