"""PredictionHead: predict values from outputs, one predictor per group of links; and the loss.

Shape legend: B images, R positions that the head reads, W width, G predictions, S sources, T
targets, V values of a token.
"""

import inspect
from functools import partial

import torch
import torch.nn.functional as F
from mmengine.dist import all_reduce, get_world_size
from mmengine.model import BaseModule, ModuleList
from torch import Tensor, nn

from xtra_toolkit.masks.rng import MaskRNG
from xtra_toolkit.models.layers import INIT, gather_tokens
from xtra_toolkit.models.linear import WideLinear
from xtra_toolkit.models.loading import refuse_other_shapes
from xtra_toolkit.objective.plan import Group, Plan
from xtra_toolkit.registry import MODELS


def cross_entropy(prediction: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """Compute the cross entropy of logits (B, G, T * classes) and class ids (B, G, T)."""
    logits = prediction.unflatten(-1, (target.shape[-1], -1)).movedim(-1, 1)
    return F.cross_entropy(logits, target, reduction=reduction)


def soft_cross_entropy(prediction: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """Compute the cross entropy of logits and probabilities, in nats.

    Args:
        prediction: (B, G, T * classes) logits.
        target: (B, G, T, classes) probabilities, for instance a teacher's.
        reduction: 'mean', or 'none' for a loss of each token, (B, G, T).

    Raises:
        RuntimeError: The targets are no probabilities. On a GPU this is an assertion of the device.
    """
    sums = target.sum(-1, dtype=torch.promote_types(target.dtype, torch.float32))
    torch._assert_async(
        ((target >= 0).all() & ((sums - 1).abs() < SUM_TOLERANCE).all()),
        "the loss 'soft_cross_entropy' was given targets that are no probabilities; each must be 0 "
        "or more, and those of a token must add up to 1 (a softmax of logits)",
    )
    logits, target = (x.reshape(-1, target.shape[-1]) for x in (prediction, target))
    losses = F.cross_entropy(logits, target, reduction="none").view(sums.shape)
    return losses.mean() if reduction == "mean" else losses


def cosine(prediction: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """Compute 2 - 2 cos of the vectors of each link, (B, G, 1), or the mean.

    Source: D-iGPT, arXiv 2312.02147.
    """
    distance = 2 - 2 * F.cosine_similarity(prediction, target, dim=-1)[..., None]
    return distance.mean() if reduction == "mean" else distance


def negative_cosine(prediction: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """Compute -cos of the vectors of each link, (B, G, 1), or the mean (NEPA, arXiv 2512.16922)."""
    distance = -F.cosine_similarity(prediction, target, dim=-1)[..., None]
    return distance.mean() if reduction == "mean" else distance


LOSSES = {
    "mse": F.mse_loss,
    "l1": F.l1_loss,
    "smooth_l1": F.smooth_l1_loss,
    "cosine": cosine,
    "negative_cosine": negative_cosine,
    "cross_entropy": cross_entropy,
    "soft_cross_entropy": soft_cross_entropy,
}
SUM_TOLERANCE = 1e-2  # probabilities may be of bfloat16
REDUCTIONS = ("batch", "image")


@MODELS.register_module()
class PredictionHead(BaseModule):
    """Predict the values of each link by an MLP on its concatenated outputs, and compute the loss.

    The loss of a link is the mean over its values. The loss of a group is the mean over the links
    that its loss mask selects. The total is the mean over the groups.

    Args:
        hidden: Width of the hidden layer. None: a single Linear layer (MAE).
        loss: 'mse', 'l1', 'smooth_l1', 'cosine' (2 - 2 cos) or 'negative_cosine'; 'cross_entropy'
            if the values of the target are class ids (NextColour), for which the head then predicts
            logits; 'soft_cross_entropy' if they are probabilities of classes. A dict adds arguments
            of the loss: ``dict(type='smooth_l1', beta=2.0)``.
        reduction: How the losses of the links of a group are averaged. 'batch': their sum is
            divided by their number (AIM). 'image': the mean per image is averaged over the images
            that predict anything. The number is counted over all ranks, and with GlobalBatchLoop
            over all micro-batches of a step.
        shapes: (in, out) widths of each group. The pretrainer derives them from the plan.
    """

    random: bool = False
    """Set this to True in a subclass whose loss draws random numbers, by :meth:`draw`. Its
    predictions are then no values that could be drawn as a picture."""

    reads: list[int] | None = None
    """Which output of a decoder each head reads; only ``SumOfHeads`` has several heads."""

    def __init__(
        self,
        hidden: int | None = None,
        loss: str | dict = "mse",
        reduction: str = "batch",
        *,
        shapes: list[tuple[int, int]],
        init_cfg: list | dict | None = None,
    ):
        super().__init__(init_cfg or INIT)
        options = dict(loss) if isinstance(loss, dict) else dict(type=loss)
        loss = options.pop("type", None)
        for name, given, valid in (("loss", loss, LOSSES), ("reduction", reduction, REDUCTIONS)):
            if given not in valid:
                raise ValueError(f"{name}={given!r} was given; valid: {', '.join(valid)}")
        try:
            inspect.signature(LOSSES[loss]).bind(None, None, **options)
        except TypeError as error:
            raise ValueError(f"loss {loss!r} cannot be made of {options}: {error}") from error
        self.distance, self.reduction = partial(LOSSES[loss], **options), reduction
        self.classes = loss == "cross_entropy"  # whether the target values are class ids
        self.probabilities = loss == "soft_cross_entropy"  # or probabilities of classes
        self._register_load_state_dict_pre_hook(refuse_other_shapes, with_module=True)
        self.predictors = ModuleList(_predictor(i, hidden, o) for i, o in shapes)

    def forward(self, x: Tensor, plan: Plan) -> list[Tensor]:
        """Return the predictions of each group, (B, G, T * V), from outputs (B, R, W).

        A group has G predictions of T tokens with V values each; R outputs of width W are read.
        """
        return [
            predictor(gather_outputs(x, group))
            for predictor, group in zip(self.predictors, plan.groups, strict=True)
        ]

    def loss(self, x: Tensor, plan: Plan, target_values: list[Tensor]) -> dict[str, Tensor]:
        """Compute the loss.

        Args:
            x: (B, R, W) outputs.
            plan: The plan of the batch.
            target_values: (B, G, T * V) values of each group, as the loss compares them;
                (B, G, T, V) if they are probabilities.

        Returns:
            ``dict(loss=scalar)``.
        """
        groups = zip(self(x, plan), target_values, plan.groups, strict=True)
        losses = [self.reduce(p, target, g.loss_mask, g.count) for p, target, g in groups]
        return dict(loss=sum(losses) / len(losses))

    def draw(
        self, index: int, group: Group, images: int, masks_per_image: int, rng: MaskRNG
    ) -> tuple[Tensor, ...] | None:
        """Draw what the loss of a group needs; ``Group.draws`` holds it.

        It is called before each training step, outside of the compiled graph.

        Args:
            index: Index of the group among those of this head.
            group: The group.
            images: Number of images.
            masks_per_image: Masks of each image. The first mask of all images comes first in the
                batch of the head.
            rng: What to draw from. The first dimension of a draw is the image, so that what an
                image draws depends on its seed alone.
        """
        return None

    def of_part(self, part: int) -> "PredictionHead":
        """Return the head of one part of the target, which is this one; see ``SumOfHeads``."""
        return self

    def count(self, loss_mask: Tensor, images: int) -> Tensor:
        """Return by what the loss of a group is divided, () float64.

        Args:
            loss_mask: (B or 1, G) bool, the links that count.
            images: Number of images, B.
        """
        loss_mask = loss_mask.expand(images, -1)
        counted = loss_mask if self.reduction == "batch" else loss_mask.any(1)
        return counted.sum(dtype=torch.float64)

    def reduce(
        self,
        prediction: Tensor,
        target: Tensor,
        loss_mask: Tensor | None,
        count: Tensor | None = None,
    ) -> Tensor:
        """Compute the loss of one group.

        Args:
            prediction: (B, G, T * V).
            target: (B, G, T * V), class ids (B, G, T), or probabilities (B, G, T, V).
            loss_mask: (B or 1, G) bool, the links that count. None: all.
            count: () what the loss is divided by, the mean over the micro-batches and ranks of a
                step. None: it is counted in this batch.
        """
        dtype = torch.promote_types(prediction.dtype, torch.float32)  # for class ids
        prediction = prediction.to(target.dtype if target.is_floating_point() else dtype)
        if loss_mask is None:
            return self.distance(prediction, target)
        losses = self.distance(prediction, target, reduction="none").mean(-1)
        return self.average(losses, loss_mask, count)

    def average(self, losses: Tensor, loss_mask: Tensor | None, count: Tensor | None) -> Tensor:
        """Average the losses of links, (B, G); see :meth:`reduce`."""
        if loss_mask is None:
            return losses.mean()
        if count is None:
            count = self.count(loss_mask, len(losses))
            if self.training:  # gradients are averaged over the ranks
                all_reduce(count)
                count = count / get_world_size()
        loss_mask = loss_mask.to(losses.dtype).expand_as(losses)
        if self.reduction == "image":
            total = ((losses * loss_mask).sum(1) / loss_mask.sum(1).clamp(min=1)).sum()
        else:
            total = (losses * loss_mask).sum()
        return total / count.to(losses.dtype).clamp(min=1e-6)


def gather_outputs(x: Tensor, group: Group) -> Tensor:
    """Concatenate the outputs (B, R, W) that each prediction reads, token-major: (B, G, S * W)."""
    rows = group.source_positions if group.output_index is None else group.output_index
    _, g, s = rows.shape
    x = x[:, slice(*group.span)] if group.span else gather_tokens(x, rows.flatten(1))
    return x.reshape(len(x), g, s * x.shape[-1])


def _predictor(width: int, hidden: int | None, out: int) -> nn.Module:
    if hidden is None:
        return WideLinear(width, out)
    return nn.Sequential(WideLinear(width, hidden), nn.GELU(), WideLinear(hidden, out))
