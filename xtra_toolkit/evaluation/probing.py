"""Probes of a frozen encoder on the images of a folder, on features that are computed once.

Shape legend: N images, T patch tokens, D width, M learning rates, C classes.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from xtra_toolkit.evaluation.knn_vote import Bank, vote
from xtra_toolkit.evaluation.probe_sweep import ProbeSweep
from xtra_toolkit.evaluation.sweep_optim_wrapper import SweepOptimWrapperConstructor
from xtra_toolkit.models.masked_vit import MaskedViT

LAYERS = 6  # whose mean the attentive probe reads, as XTRA and AIM
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
BATCH, WARM_UP = 256, 0.1
PROBES = {  # the head and its weight decay, as mmconfigs/benchmarks/{linear,attentive}
    "linear": (dict(type="mmpretrain.LinearClsHead", init_cfg=None), 0.0),
    "attentive": (dict(type="xtra_toolkit.AttentiveProbe"), 0.1),
}


class Result(NamedTuple):
    """What a probe reached on the test images.

    Args:
        name: of the probe.
        accuracies: top-1 in per cent by learning rate; without rates (kNN) under None.
    """

    name: str
    accuracies: dict[float | None, float]

    @property
    def best(self) -> tuple[float | None, float]:
        """The best learning rate and its accuracy."""
        return max(self.accuracies.items(), key=lambda item: item[1])

    @property
    def at_edge(self) -> bool:
        """Do only the lowest or the highest rates that were tried reach the best accuracy?"""
        rates = sorted(self.accuracies, key=lambda rate: rate or 0)
        inner = [self.accuracies[rate] for rate in rates[1:-1]]
        return len(rates) > 1 and self.best[1] > max(inner, default=-1.0)


class Readout(nn.Module):
    """What the probes read of an encoder, from one pass.

    Args:
        vit: the encoder; it is changed to give its last layers.
        tokens: whether the attentive probe is wanted.
    """

    def __init__(self, vit: MaskedViT, tokens: bool):
        super().__init__()
        depth = vit.num_layers
        vit.final_norm, vit.out_type = False, "featmap"
        vit.out_indices = list(range(max(depth - LAYERS, 0) if tokens else depth - 1, depth))
        self.vit, self.tokens = vit, tokens

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Images to ``linear`` and ``knn`` (B, D), and ``attentive`` (B, T, D) in bfloat16.

        As the benchmarks of mmconfigs: linear and attentive read layers without the final norm.
        """
        layers = [layer.flatten(2).transpose(1, 2) for layer in self.vit(images)]
        last = layers[-1]
        normed = self.vit.ln1(last) if hasattr(self.vit, "ln1") else last
        read = dict(linear=last.float().mean(1), knn=F.normalize(normed.float().mean(1), dim=1))
        if self.tokens:
            read["attentive"] = torch.stack(layers).mean(0).bfloat16()
        return read


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
        features: (N, D), or (N, T, D) for the attentive one.
        labels: (N,).
        train: (N,) bool, the images that train; the others test.
        epochs: of training: AdamW, a tenth of warm-up, then a cosine.
        rates: peak learning rates.
        heads: of the attentive probe.
    """
    probe, decay = PROBES[name]
    probe = dict(probe, num_heads=heads) if name == "attentive" else dict(probe)
    classes = int(labels.max()) + 1
    torch.manual_seed(0)
    head = ProbeSweep(classes, features.shape[-1], list(rates), probe)
    head.to(features.device).train()
    optimizer = _optimizer(head, decay)
    own, samples = train.nonzero().flatten(), _samples(labels)
    steps = epochs * max(len(own) // BATCH, 1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer.optimizer, lambda i: _share(i, steps))
    for batch in _batches(own, epochs):
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


def _share(step: int, steps: int) -> float:
    """The share of its peak that a rate has: a linear warm-up, then a cosine to zero."""
    warm = max(round(WARM_UP * steps), 1)
    if step < warm:
        return (step + 1) / warm
    return (1 + np.cos(np.pi * (step - warm) / max(steps - warm, 1))) / 2


def _batches(own: Tensor, epochs: int) -> Iterator[Tensor]:
    """Shuffled batches of the same size; the rest of an epoch is left out of it."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        order = own[torch.randperm(len(own), generator=generator).to(own.device)]
        size = min(BATCH, len(own))
        yield from order[: len(order) // size * size].split(size)


def _samples(labels: Tensor) -> list[DataSample]:
    return [DataSample().set_gt_label(label) for label in labels]


@torch.no_grad()
def _accuracies(head: ProbeSweep, features: Tensor, labels: Tensor, test: Tensor) -> list[float]:
    right = 0
    for batch in test.split(BATCH):
        guesses = head((features[batch].float(),)).argmax(-1)  # (B, M)
        right = right + (guesses == labels[batch][:, None]).double().sum(0)
    return (100 * right / len(test)).tolist()


def knn(features: Tensor, labels: Tensor, train: Tensor, k: int = 20) -> Result:
    """Classify the test images by their k nearest training images, as DINO.

    Args:
        features: (N, D), of unit length.
        labels, train: as of :func:`sweep`.
        k: how many vote; all of them where there are fewer.
    """
    bank = Bank(features[train], labels[train])
    shares = vote(features[~train], bank, int(labels.max()) + 1, min(k, len(bank.labels)), 0.07)
    right = (shares.argmax(1) == labels[~train]).double().mean()
    return Result(f"kNN, k={min(k, len(bank.labels))}", {None: 100 * float(right)})


def majority(labels: Tensor, train: Tensor) -> float:
    """The accuracy in per cent of always guessing the most frequent class of training."""
    guess = labels[train].bincount().argmax()
    return 100 * float((labels[~train] == guess).double().mean())
