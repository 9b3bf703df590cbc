"""SharedHead: predict the same values from several parts of the outputs, by one predictor.

Shape legend: B images, R positions that the head reads, W width of a part, G predictions, T
targets, V values of a token.
"""

from typing import Any

from torch import Tensor

from xtra_toolkit.models.prediction_head import PredictionHead
from xtra_toolkit.objective.plan import Plan
from xtra_toolkit.registry import MODELS


@MODELS.register_module()
class SharedHead(PredictionHead):
    """Apply one predictor to each part of the outputs, and add up the losses (BEiT v2).

    Args:
        copies: Number of parts of equal width that an output holds, as :class:`PatchAggregation`
            makes two.
        shapes: (in, out) widths of each group, all parts together.
        **head: Arguments of :class:`PredictionHead`.

    Raises:
        ValueError: The outputs cannot be divided so.
    """

    def __init__(self, copies: int = 2, *, shapes: list[tuple[int, int]], **head: Any):
        if copies < 1 or any(i % copies for i, _ in shapes):
            widths = ", ".join(str(i) for i, _ in shapes)
            raise ValueError(
                f"SharedHead(copies={copies}) was given outputs of {widths} values, which it "
                "cannot divide into so many parts of equal width"
            )
        super().__init__(shapes=[(i // copies, o) for i, o in shapes], **head)
        self.copies = copies

    def forward(self, x: Tensor, plan: Plan) -> list[Tensor]:
        """Return the predictions of each group from the first part, (B, G, T * V).

        The outputs are (B, R, copies * W). The other parts are predicted from too, so that their
        cost is counted.
        """
        first, *_ = [super(SharedHead, self).forward(part, plan) for part in self.parts(x)]
        return first

    def parts(self, x: Tensor) -> tuple[Tensor, ...]:
        """Divide outputs (B, R, copies * W) into parts (B, R, W)."""
        return x.chunk(self.copies, dim=-1)

    def loss(self, x: Tensor, plan: Plan, target_values: list[Tensor]) -> dict[str, Tensor]:
        """Compute the sum of the losses of all parts, ``dict(loss=scalar)``."""
        total = 0
        for part in self.parts(x):
            groups = zip(super().forward(part, plan), target_values, plan.groups, strict=True)
            losses = [self.reduce(p, target, g.loss_mask, g.count) for p, target, g in groups]
            total = total + sum(losses) / len(losses)
        return dict(loss=total)
