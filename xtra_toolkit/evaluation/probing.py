"""Train probes of a frozen encoder on features that are computed once, for ``xtra probe``.

Shape legend: N images, T patch tokens, D width, M learning rates, C classes.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from mmpretrain.structures import DataSample
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from xtra_toolkit.evaluation.knn_vote import Bank, vote
from xtra_toolkit.evaluation.probe_sweep import ProbeSweep
from xtra_toolkit.evaluation.sweep_optim_wrapper import SweepOptimWrapperConstructor
from xtra_toolkit.models.masked_vit import MaskedViT

LAYERS = 6  # the attentive probe reads the mean of the last six layers, as in XTRA and AIM
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
BATCH, WARM_UP = 256, 0.1
PROBES = {  # head and weight decay, as in mmconfigs/benchmarks/{linear,attentive}
    "linear": (dict(type="mmpretrain.LinearClsHead", init_cfg=None), 0.0),
    "attentive": (dict(type="xtra_toolkit.AttentiveProbe"), 0.1),
}


class Result(NamedTuple):
    """The accuracies of a probe on the test images.

    Args:
        name: Name of the probe.
        accuracies: Top-1 accuracy in per cent by learning rate; the key is None for kNN.
    """

    name: str
    accuracies: dict[float | None, float]

    @property
    def best(self) -> tuple[float | None, float]:
        """The best learning rate and its accuracy."""
        return max(self.accuracies.items(), key=lambda item: item[1])

    @property
    def at_edge(self) -> bool:
        """Whether only the lowest or the highest learning rate reaches the best accuracy."""
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
    epochs: int,
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
            steps and a cosine schedule after it.
        rates: Peak learning rates.
        heads: Number of heads of the attentive probe.
    """
    probe, decay = PROBES[name]
    probe = dict(probe, num_heads=heads) if name == "attentive" else dict(probe)
    classes = int(labels.max()) + 1
    torch.manual_seed(0)
    head = ProbeSweep(classes, features.shape[-1], list(rates), probe)
    head.to(features.device).train()
    optimizer = _optimizer(head, decay)
    indices, samples = train.nonzero().flatten(), _samples(labels)
    steps = epochs * max(len(indices) // BATCH, 1)
    schedule = LambdaLR(optimizer.optimizer, lambda step: _lr_factor(step, steps))
    for batch in _batches(indices, epochs):
        losses = head.loss((features[batch].float(),), [samples[i] for i in batch.tolist()])
        optimizer.update_params(sum(losses.values()))
        schedule.step()
    accuracies = _accuracies(head.eval(), features, labels, (~train).nonzero().flatten())
    return Result(name, dict(zip(rates, accuracies, strict=True)))


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


def _samples(labels: Tensor) -> list[DataSample]:
    return [DataSample().set_gt_label(label) for label in labels]


@torch.no_grad()
def _accuracies(head: ProbeSweep, features: Tensor, labels: Tensor, test: Tensor) -> list[float]:
    correct = 0
    for batch in test.split(BATCH):
        predictions = head((features[batch].float(),)).argmax(-1)  # (B, M)
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
