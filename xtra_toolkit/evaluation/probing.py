"""Train probes of a frozen encoder on features that are computed once, for ``xtra probe``.

Shape legend: N images, T patch tokens, D width, M learning rates, C classes.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from xtra_toolkit.evaluation.knn_vote import Bank, vote
from xtra_toolkit.evaluation.probe_sweep import ProbeSweep
from xtra_toolkit.evaluation.sweep_optim_wrapper import SweepOptimWrapperConstructor
from xtra_toolkit.models.masked_vit import MaskedViT

LAYERS = 6  # the attentive probe reads the mean of the last six layers, as in XTRA and AIM
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
BATCH, WARM_UP = 256, 0.1
STEPS, MOST_EPOCHS, LEAST_EPOCHS = 200, 100, 10
PROBES = {  # head and weight decay, as in mmconfigs/benchmarks/{linear,attentive}
    "linear": (dict(type="mmpretrain.LinearClsHead", init_cfg=None), 0.0),
    "attentive": (dict(type="xtra_toolkit.AttentiveProbe"), 0.1),
}


class Result(NamedTuple):
    """Hold the accuracies of a probe on the test images.

    Args:
        name: Name of the probe.
        accuracies: Top-1 accuracy in per cent by learning rate; the key is None for kNN.
    """

    name: str
    accuracies: dict[float | None, float]

    @property
    def best(self) -> tuple[float | None, float]:
        """Return the best learning rate and its accuracy."""
        return max(self.accuracies.items(), key=lambda item: item[1])

    @property
    def at_edge(self) -> bool:
        """Return whether only the lowest or the highest learning rate reaches the best accuracy."""
        rates = sorted(self.accuracies, key=lambda rate: rate or 0)
        inner = [self.accuracies[rate] for rate in rates[1:-1]]
        return len(rates) > 1 and self.best[1] > max(inner, default=-1.0)


class Readout(nn.Module):
    """Compute the features of all probes in one pass of an encoder.

    Args:
        vit: The encoder. It is changed to return its last layers.
        tokens: Whether to return the features of the attentive probe.
    """

    def __init__(self, vit: MaskedViT, tokens: bool):
        super().__init__()
        depth = vit.num_layers
        vit.final_norm, vit.out_type = False, "featmap"
        vit.out_indices = list(range(max(depth - LAYERS, 0) if tokens else depth - 1, depth))
        self.vit, self.tokens = vit, tokens

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the features of images for each probe.

        As in mmconfigs/benchmarks, the linear and the attentive probe read layers without the
        final norm.

        Returns:
            ``linear`` and ``knn`` (B, D), and ``attentive`` (B, T, D) in bfloat16.
        """
        layers = [layer.flatten(2).transpose(1, 2) for layer in self.vit(images)]
        last = layers[-1]
        normed = self.vit.ln1(last) if hasattr(self.vit, "ln1") else last
        features = dict(linear=last.float().mean(1), knn=F.normalize(normed.float().mean(1), dim=1))
        if self.tokens:
            features["attentive"] = torch.stack(layers).mean(0).bfloat16()
        return features


def sweep(
    name: str,
    features: Tensor,
    labels: Tensor,
    train: Tensor,
    epochs: int | None = None,
    rates: tuple[float, ...] = RATES,
    heads: int = 1,
) -> Result:
    """Train a probe at all learning rates at once and test it.

    Args:
        name: ``'linear'`` or ``'attentive'``.
        features: (N, D), or (N, T, D) for the attentive probe.
        labels: (N,).
        train: (N,) bool, the training images; the others are the test images.
        epochs: Number of epochs. The optimizer is AdamW with a linear warm-up over a tenth of the
            steps and a cosine schedule after it. Default: see :func:`default_epochs`.
        rates: Peak learning rates.
        heads: Number of heads of the attentive probe.
    """
    probe, decay = PROBES[name]
    probe = dict(probe, num_heads=heads) if name == "attentive" else dict(probe)
    classes = int(labels.max()) + 1
    torch.manual_seed(0)
    head = ProbeSweep(classes, features.shape[-1], list(rates), probe)
    own = train.nonzero().flatten()
    head.to(features.device).eval()  # the norm uses the statistics of the training images
    _set_norm(head, features, own)
    optimizer = _optimizer(head, decay)
    epochs = epochs or default_epochs(len(own))
    steps = epochs * max(len(own) // BATCH, 1)
    schedule = LambdaLR(optimizer.optimizer, lambda step: _lr_factor(step, steps))
    for batch in _batches(own, epochs):
        scores = _logits(head, features[batch])
        losses = F.cross_entropy(scores.flatten(0, 1), labels[batch].repeat_interleave(len(rates)))
        optimizer.update_params(losses * len(rates))  # the sum of the probes' mean losses
        schedule.step()
    accuracies = _accuracies(head, features, labels, (~train).nonzero().flatten())
    return Result(name, dict(zip(rates, accuracies, strict=True)))


def default_epochs(images: int) -> int:
    """Return the epochs that make about 200 steps on ``images`` training images, from 10 to 100."""
    return min(max(STEPS // max(images // BATCH, 1), LEAST_EPOCHS), MOST_EPOCHS)


@torch.no_grad()
def _set_norm(head: ProbeSweep, features: Tensor, own: Tensor) -> None:
    """Set the norm's mean and variance to those of the training images, computed in batches."""
    total = square = count = 0
    for batch in own.split(BATCH):
        values = features[batch].flatten(0, -2).double()
        total, square = total + values.sum(0), square + values.square().sum(0)
        count += len(values)
    mean = total / count
    head.norm.running_mean.copy_(mean)
    head.norm.running_var.copy_((square / count - mean.square()).clamp(min=0))


def _logits(head: ProbeSweep, features: Tensor) -> Tensor:
    """Compute the logits of every probe, (B, M, C), as ``head`` gives them.

    The queries of all attentive probes attend in one matrix product, in place of one for each.
    The norm is applied to queries and to what was pooled, not to all tokens: its shift is the same
    for each token, which the softmax ignores.
    """
    norm, x = head.norm, features.float()
    scale = (norm.running_var + norm.eps).rsqrt()
    if x.ndim == 2:
        x = (x - norm.running_mean) * scale
        return torch.stack([probe.fc(x) for probe in head.probes], 1)
    heads, rates = head.probes[0].num_heads, len(head.probes)
    q = torch.stack([probe.queries for probe in head.probes]).unflatten(-1, (heads, -1))
    k, v = (
        torch.stack([getattr(probe, part).weight for probe in head.probes]).unflatten(
            1, (heads, -1)
        )
        for part in ("k", "v")
    )
    q = torch.einsum("mqhd,mhdc->mqhc", q, k) * q.shape[-1] ** -0.5 * scale
    attention = (q.flatten(0, 2) @ x.transpose(1, 2)).softmax(-1)  # (B, M Q H, N)
    attention = attention.unflatten(1, (rates, -1, heads)).mean(2)
    pooled = (attention.flatten(1, 2) @ x - norm.running_mean) * scale
    pooled = pooled.unflatten(1, (rates, heads))
    pooled = torch.einsum("bmhc,mhdc->bmhd", pooled, v).flatten(2)
    return torch.stack([p.fc(pooled[:, m]) for m, p in enumerate(head.probes)], 1)


def _optimizer(head: ProbeSweep, decay: float):  # noqa: ANN202
    config = dict(
        type="xtra_toolkit.SweepOptimWrapper",
        optimizer=dict(type="torch.optim.AdamW", lr=1.0, betas=(0.9, 0.95), weight_decay=decay),
        clip_grad=dict(max_norm=3.0),
    )
    return SweepOptimWrapperConstructor(config, dict(flat_decay_mult=0.0))(head)


def _lr_factor(step: int, steps: int) -> float:
    """Return the factor of the peak learning rate: a linear warm-up, then a cosine to zero."""
    warm = max(round(WARM_UP * steps), 1)
    if step < warm:
        return (step + 1) / warm
    return (1 + np.cos(np.pi * (step - warm) / max(steps - warm, 1))) / 2


def _batches(indices: Tensor, epochs: int) -> Iterator[Tensor]:
    """Yield shuffled batches of equal size; an incomplete one at the end of an epoch is dropped."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        order = indices[torch.randperm(len(indices), generator=generator).to(indices.device)]
        size = min(BATCH, len(indices))
        yield from order[: len(order) // size * size].split(size)


@torch.no_grad()
def _accuracies(head: ProbeSweep, features: Tensor, labels: Tensor, test: Tensor) -> list[float]:
    correct = 0
    for batch in test.split(BATCH):
        predictions = _logits(head, features[batch]).argmax(-1)  # (B, M)
        correct = correct + (predictions == labels[batch][:, None]).double().sum(0)
    return (100 * correct / len(test)).tolist()


def knn(features: Tensor, labels: Tensor, train: Tensor, k: int = 20) -> Result:
    """Classify the test images by their k nearest training images, as in DINO.

    Args:
        features: (N, D), of unit length.
        labels: (N,).
        train: (N,) bool, the training images; the others are the test images.
        k: Number of neighbours; all training images if there are fewer.
    """
    bank = Bank(features[train], labels[train])
    k = min(k, len(bank.labels))
    shares = vote(features[~train], bank, int(labels.max()) + 1, k, 0.07)
    correct = (shares.argmax(1) == labels[~train]).double().mean()
    return Result(f"kNN, k={k}", {None: 100 * float(correct)})


def majority(labels: Tensor, train: Tensor) -> float:
    """Return the accuracy in per cent of always predicting the most frequent training class."""
    most_frequent = labels[train].bincount().argmax()
    return 100 * float((labels[~train] == most_frequent).double().mean())
