"""DiffusionHead: predict the distribution of the values by a small diffusion model (MAR).

Shape legend: B images, R positions that the head reads, W width, G predictions, T targets, V values
of a token, K draws of timestep and noise.
"""

import math

import numpy as np
import torch
from mmengine.model import ModuleList
from torch import Tensor

from xtra_toolkit.masks.rng import MaskRNG, mask_rng
from xtra_toolkit.models.diffusion_mlp import DiffusionMLP
from xtra_toolkit.models.prediction_head import PredictionHead, gather_outputs
from xtra_toolkit.objective.plan import Group, Plan
from xtra_toolkit.registry import MODELS

HALF_BIN = 1 / 255  # values of 0 to 255 that were scaled to -1 to 1


@MODELS.register_module()
class DiffusionHead(PredictionHead):
    """Train a diffusion model of the values of each link, conditioned on its outputs.

    Source: MAR, arXiv 2406.11838; ``DiffLoss`` of LTH14/mar at fe470ac. A link's values are noised
    by the cosine schedule; a :class:`DiffusionMLP` predicts the noise (mean squared error) and the
    variance, between the smallest and the largest one (variational bound, in bits per value). The
    values should lie between -1 and 1: mean and std of the data preprocessor are 127.5, and the
    target has ``normalise=False``.

    Timesteps and noise are drawn from the seed of each image. The loss learns a distribution;
    sampling from it is not part of this package, so nothing is reconstructed.

    Args:
        width: Width of the MLP.
        depth: Number of its residual blocks.
        steps: Number of timesteps of the schedule.
        repeats: Number of draws of timestep and noise for each prediction, over which the loss is
            averaged.
        reduction: See :class:`PredictionHead`.
        shapes: (in, out) widths of each group. The pretrainer derives them from the plan.

    Raises:
        ValueError: A number is below 1, or there are fewer than 2 timesteps.
    """

    random = True

    def __init__(
        self,
        width: int = 1024,
        depth: int = 6,
        steps: int = 1000,
        repeats: int = 4,
        reduction: str = "batch",
        *,
        shapes: list[tuple[int, int]],
        init_cfg: list | dict | None = None,
    ):
        super().__init__(reduction=reduction, shapes=[], init_cfg=init_cfg)
        if min(width, depth, repeats) < 1 or steps < 2:
            raise ValueError(
                f"DiffusionHead(width={width}, depth={depth}, repeats={repeats}, steps={steps}) "
                "was given; each is 1 or more, and steps 2 or more"
            )
        self.steps, self.repeats, self.widths = steps, repeats, [out for _, out in shapes]
        self.predictors = ModuleList(DiffusionMLP(i, o, width, depth) for i, o in shapes)
        # bits of float32, which no conversion of the model to another dtype rounds
        table = torch.tensor(cosine_schedule(steps), dtype=torch.float32)
        self.register_buffer("schedule", table.view(torch.int32), persistent=False)

    def forward(self, x: Tensor, plan: Plan) -> list[Tensor]:
        """Return the noise that is predicted in values of 0 at the last timestep, (B, G, T * V).

        It depends on the outputs (B, R, W) as the loss does, but predicts no values. The network
        runs K times, as in the loss, so that its cost is counted.
        """
        made = []
        for mlp, group, width in zip(self.predictors, plan.groups, self.widths, strict=True):
            condition = gather_outputs(x, group)
            zeros = condition.new_zeros(*condition.shape[:2], self.repeats, width)
            last = torch.full(zeros.shape[:3], self.steps - 1, device=x.device)
            made.append(mlp(zeros, last, condition[..., None, :])[..., 0, :width])
        return made

    def loss(self, x: Tensor, plan: Plan, target_values: list[Tensor]) -> dict[str, Tensor]:
        """Compute the loss, ``dict(loss=scalar)``; see :class:`PredictionHead`.

        A plan without draws, in evaluation, gets the same ones for each batch.
        """
        losses = []
        for i, (group, target) in enumerate(zip(plan.groups, target_values, strict=True)):
            draws = group.draws or self.draw(i, group, len(target), 1, mask_rng(None))
            timestep, noise = (drawn.to(target.device) for drawn in draws)
            link = self.link_losses(i, gather_outputs(x, group), target, timestep, noise)
            losses.append(self.average(link, group.loss_mask, group.count))
        return dict(loss=sum(losses) / len(losses))

    def draw(
        self, index: int, group: Group, images: int, masks_per_image: int, rng: MaskRNG
    ) -> tuple[Tensor, Tensor]:
        """Draw timesteps (B, G, K) and standard normal noise (B, G, K, T * V)."""
        shape = (images, masks_per_image, group.tokens.shape[1], self.repeats)
        timestep = rng.randint(0, self.steps, shape)
        noise = rng.randn(*shape, self.widths[index])
        return tuple(drawn.transpose(0, 1).flatten(0, 1) for drawn in (timestep, noise))

    def link_losses(
        self, index: int, condition: Tensor, target: Tensor, timestep: Tensor, noise: Tensor
    ) -> Tensor:
        """Compute the loss of each link of a group, (B, G), the mean over K draws.

        Args:
            index: Index of the group.
            condition: (B, G, S * W) outputs.
            target: (B, G, T * V) values.
            timestep: (B, G, K).
            noise: (B, G, K, T * V).
        """
        target = target.to(torch.promote_types(target.dtype, torch.float32))[..., None, :]
        noise = noise.to(target.dtype)
        rows = self.schedule.view(torch.float32)[timestep]
        signal, spread, inverse, other, start, current, low, high = rows[..., None].unbind(-2)
        noisy = signal * target + spread * noise
        out = self.predictors[index](noisy, timestep, condition[..., None, :]).to(target.dtype)
        predicted, variance = out.chunk(2, dim=-1)
        share = (variance + 1) / 2
        log_variance = share * high + (1 - share) * low
        # the bound trains the variance alone
        restored = inverse * noisy - other * predicted.detach()
        mean, true_mean = (start * values + current * noisy for values in (restored, target))
        distance = normal_kl(true_mean, low, mean, log_variance)
        first = -log_likelihood(target, mean, 0.5 * log_variance)
        bound = torch.where(timestep == 0, first.mean(-1), distance.mean(-1)) / math.log(2)
        return ((noise - predicted).square().mean(-1) + bound).mean(-1)


def cosine_schedule(steps: int) -> np.ndarray:
    """Return (steps, 8): the coefficients of each timestep, computed in float64.

    In the order of the columns: the factors of values and noise in noisy values; those of noisy
    values and noise in the restored values; those of values and noisy values in the mean of the
    step before; the logarithms of the smallest and of the largest variance.
    """
    angles = ((i / steps + 0.008) / 1.008 * math.pi / 2 for i in range(steps + 1))
    level = np.array([math.cos(angle) ** 2 for angle in angles])
    beta = np.minimum(1 - level[1:] / level[:-1], 0.999)
    kept = np.cumprod(1 - beta)
    before = np.append(1.0, kept[:-1])
    variance = beta * (1 - before) / (1 - kept)
    columns = (
        np.sqrt(kept),
        np.sqrt(1 - kept),
        np.sqrt(1 / kept),
        np.sqrt(1 / kept - 1),
        beta * np.sqrt(before) / (1 - kept),
        (1 - before) * np.sqrt(1 - beta) / (1 - kept),
        np.log(np.append(variance[1], variance[1:])),  # the first variance is 0
        np.log(beta),
    )
    return np.stack(columns, axis=1)


def normal_kl(mean: Tensor, log_variance: Tensor, mean_2: Tensor, log_variance_2: Tensor) -> Tensor:
    """Compute the Kullback-Leibler divergence of the second normal from the first, in nats."""
    ratio = torch.exp(log_variance - log_variance_2)
    distance = (mean - mean_2).square() * torch.exp(-log_variance_2)
    return 0.5 * (log_variance_2 - log_variance - 1 + ratio + distance)


def log_likelihood(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Compute the logarithm of the probability of the bin of width 2 / 255 that holds ``x``.

    The first and the last bin reach to infinity. The cumulative distribution is approximated as in
    the original.
    """
    above, below = (
        _normal_cdf(torch.exp(-log_std) * (x - mean + side)) for side in (HALF_BIN, -HALF_BIN)
    )
    inside = torch.where(x > 0.999, 1 - below, above - below)
    return torch.where(x < -0.999, above, inside).clamp(min=1e-12).log()


def _normal_cdf(x: Tensor) -> Tensor:
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
