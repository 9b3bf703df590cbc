"""Classify features by the votes of their nearest neighbours, as in DINO.

Source: DINO (arXiv 2104.14294; facebookresearch/dino at 04c0ad9, eval_knn.py).

Shape legend: B images of a batch, N images of the bank, D width.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from mmengine.dist import all_gather
from torch import Tensor, nn


class Bank(NamedTuple):
    """Hold the labelled features that vote; each has unit length."""

    features: Tensor  # (N, D)
    labels: Tensor  # (N,)


def vote(
    queries: Tensor, bank: Bank, classes: int, k: int, temperature: float, chunk: int = 65536
) -> Tensor:
    """Return the share of each class in the votes of the k nearest neighbours, (B, classes).

    Args:
        queries: (B, D) features of unit length.
        bank: The images that vote.
        classes: Number of classes.
        k: Number of neighbours.
        temperature: An image of cosine similarity c votes with weight exp(c / temperature).
        chunk: Number of images of the bank that are compared at a time, to save memory.
    """
    cosines = queries.new_empty(len(queries), 0)
    labels = bank.labels.new_empty(len(queries), 0)
    for start in range(0, len(bank.labels), chunk):
        part = queries @ bank.features[start : start + chunk].T
        best, index = part.topk(min(k, part.shape[1]))
        cosines = torch.cat([cosines, best], 1)
        labels = torch.cat([labels, bank.labels[start + index]], 1)
        cosines, kept = cosines.topk(min(k, cosines.shape[1]))
        labels = labels.gather(1, kept)
    weights = (cosines / temperature).softmax(1)  # DINO's weights divided by their sum
    return weights.new_zeros(len(queries), classes).scatter_add_(1, labels, weights)


def unit_feature(model: nn.Module, images: Tensor) -> Tensor:
    """Return :func:`pooled_feature` scaled to unit length, (B, D)."""
    return F.normalize(pooled_feature(model, images), dim=1)


def pooled_feature(model: nn.Module, images: Tensor) -> Tensor:
    """Return the pooled last feature of images, (B, D) in float32.

    A feature map is averaged over its pixels and a sequence over its patch tokens. A feature of
    shape (B, D) (``out_type='cls_token'``) is returned as it is.
    """
    return pooled(model.extract_feat(images), getattr(model.backbone, "num_extra_tokens", 0))


def pooled(feature: Tensor | tuple[Tensor, ...], extra: int) -> Tensor:
    """Pool the last feature, (B, D) in float32; the first ``extra`` tokens are left out."""
    feature = (feature[-1] if isinstance(feature, tuple | list) else feature).float()
    if feature.ndim == 4:
        feature = feature.mean((2, 3))
    elif feature.ndim == 3:
        feature = feature[:, extra:].mean(1)
    return feature


def in_order(share: Tensor, images: int) -> Tensor:
    """Gather the rows of all processes in the order of the data set.

    Rank r of W processes holds images r, r + W, ...; repeated images at the end are dropped.
    """
    shares = all_gather(share)
    return share if len(shares) == 1 else torch.stack(shares, 1).flatten(0, 1)[:images]
