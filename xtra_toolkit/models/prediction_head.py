"""PredictionHead: from outputs to values, one predictor for each group of links, and the loss.

Shape legend: B images, R positions that are read, W width, G predictions, S sources, T targets,
V values of a token.
"""

import torch
import torch.nn.functional as F
from mmengine.dist import all_reduce, get_world_size
from mmengine.model import BaseModule, ModuleList
from torch import Tensor, nn

from xtra_toolkit.models.layers import INIT, gather_tokens
from xtra_toolkit.models.linear import WideLinear
from xtra_toolkit.models.loading import refuse_other_shapes
from xtra_toolkit.objective.plan import Group, Plan
from xtra_toolkit.registry import MODELS


def cross_entropy(prediction: Tensor, goal: Tensor, reduction: str = "mean") -> Tensor:
    """Of logits (B, G, T * classes) against class ids (B, G, T), each token on its own."""
    logits = prediction.unflatten(-1, (goal.shape[-1], -1)).movedim(-1, 1)
    return F.cross_entropy(logits, goal, reduction=reduction)


def cosine(prediction: Tensor, goal: Tensor, reduction: str = "mean") -> Tensor:
    """2 - 2 cos of each link's vectors (D-iGPT, arXiv 2312.02147), (B, G, 1) or their mean."""
    distance = 2 - 2 * F.cosine_similarity(prediction, goal, dim=-1)[..., None]
    return distance.mean() if reduction == "mean" else distance


LOSSES = {
    "mse": F.mse_loss,
    "l1": F.l1_loss,
    "smooth_l1": F.smooth_l1_loss,
    "cosine": cosine,
    "cross_entropy": cross_entropy,
}
REDUCTIONS = ("batch", "image")


@MODELS.register_module()
class PredictionHead(BaseModule):
    """Concatenated outputs to an MLP to the values of a link; owns the loss and its reduction.

    The loss of a link is the mean over its values; that of a group the mean over its live
    links; the total the mean over the groups.

    Args:
        hidden: width of the hidden layer; None: a single Linear (MAE).
        loss: 'mse', 'l1', 'smooth_l1' or 'cosine'; 'cross_entropy' where the target gives class ids
            (NextColour), of whose classes the outputs are logits.
        reduction: over the live links of a group: 'batch', their sum by their count (AIM);
            'image', a mean per image, then over the images that predict anything. Counted over all
            ranks, and under GlobalBatchLoop over all micro-batches of a step.
        shapes: (in, out) widths of each group. The pretrainer derives them from the plan.
    """

    def __init__(
        self,
        hidden: int | None = None,
        loss: str = "mse",
        reduction: str = "batch",
        *,
        shapes: list[tuple[int, int]],
        init_cfg: list | dict | None = None,
    ):
        super().__init__(init_cfg or INIT)
        for name, given, valid in (("loss", loss, LOSSES), ("reduction", reduction, REDUCTIONS)):
            if given not in valid:
                raise ValueError(f"{name}={given!r} was given; valid: {', '.join(valid)}")
        self.distance, self.reduction = LOSSES[loss], reduction
        self.classes = loss == "cross_entropy"  # the goals are class ids
        self._register_load_state_dict_pre_hook(refuse_other_shapes, with_module=True)
        self.predictors = ModuleList(_predictor(i, hidden, o) for i, o in shapes)

    def forward(self, x: Tensor, plan: Plan) -> list[Tensor]:
        """(B, R, W) to the predictions of each group, (B, G, T * V)."""
        return [
            predictor(gather_outputs(x, group))
            for predictor, group in zip(self.predictors, plan.groups, strict=True)
        ]

    def loss(self, x: Tensor, plan: Plan, target_values: list[Tensor]) -> dict[str, Tensor]:
        """The loss of outputs (B, R, W) against the goals of each group, (B, G, T * V)."""
        losses = [
            self.reduce(prediction, goal, group.loss_mask, group.count)
            for prediction, goal, group in zip(
                self(x, plan), target_values, plan.groups, strict=True
            )
        ]
        return dict(loss=sum(losses) / len(losses))

    def count(self, loss_mask: Tensor, images: int) -> Tensor:
        """(), what the loss of so many images divides by, their ``live`` (B or 1, G) links."""
        loss_mask = loss_mask.expand(images, -1)
        return (loss_mask if self.reduction == "batch" else loss_mask.any(1)).sum(
            dtype=torch.float64
        )

    def reduce(
        self,
        prediction: Tensor,
        goal: Tensor,
        loss_mask: Tensor | None,
        count: Tensor | None = None,
    ) -> Tensor:
        """The loss of one group; ``live`` (B or 1, G) says which links count, None: all.

        ``count`` is a step's mean over its micro-batches and ranks, if not taken here.
        """
        prediction = prediction.to(goal.dtype) if goal.is_floating_point() else prediction.float()
        if loss_mask is None:
            return self.distance(prediction, goal)
        if count is None:
            count = self.count(loss_mask, len(prediction))
            if self.training:  # gradients are averaged over the ranks
                all_reduce(count)
                count = count / get_world_size()
        link = self.distance(prediction, goal, reduction="none").mean(-1)
        loss_mask = loss_mask.to(link.dtype).expand_as(link)
        if self.reduction == "image":
            total = ((link * loss_mask).sum(1) / loss_mask.sum(1).clamp(min=1)).sum()
        else:
            total = (link * loss_mask).sum()
        return total / count.to(link.dtype).clamp(min=1e-6)


def gather_outputs(x: Tensor, group: Group) -> Tensor:
    """The outputs (B, R, W) that each prediction reads, token-major: (B, G, S * W)."""
    rows = group.source_positions if group.output_index is None else group.output_index
    _, g, s = rows.shape
    x = x[:, slice(*group.span)] if group.span else gather_tokens(x, rows.flatten(1))
    return x.reshape(len(x), g, s * x.shape[-1])


def _predictor(width: int, hidden: int | None, out: int) -> nn.Module:
    if hidden is None:
        return WideLinear(width, out)
    return nn.Sequential(WideLinear(width, hidden), nn.GELU(), WideLinear(hidden, out))
