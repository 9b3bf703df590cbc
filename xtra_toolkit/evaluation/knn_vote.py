"""The votes of the nearest neighbours, and the feature that is compared.

As in DINO (arXiv 2104.14294; facebookresearch/dino at 04c0ad9, eval_knn.py).

Shape legend: B images of a batch, N images of the bank, D width.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from mmengine.dist import all_gather
from torch import Tensor, nn


class Bank(NamedTuple):
    """Labelled features, of unit length."""

    features: Tensor  # (N, D)
    labels: Tensor  # (N,)


def vote(
    queries: Tensor, bank: Bank, classes: int, k: int, temperature: float, chunk: int = 65536
) -> Tensor:
    """Unit features (B, D) to the share of each class in the votes, (B, classes).

    The k nearest vote with exp(cosine / temperature). Similarities are computed for ``chunk``
    images of the bank at a time: B x chunk values, never B x N.
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
    weights = (cosines / temperature).softmax(1)  # DINO's, divided by their sum
    return weights.new_zeros(len(queries), classes).scatter_add_(1, labels, weights)


def unit_feature(model: nn.Module, images: Tensor) -> Tensor:
    """Images to what is compared: :func:`pooled_feature` at unit length, (B, D)."""
    return F.normalize(pooled_feature(model, images), dim=1)


def pooled_feature(model: nn.Module, images: Tensor) -> Tensor:
    """Images to their last feature, pooled, (B, D) in float32.

    A feature map is averaged over its pixels, a sequence over its patch tokens; what is (B, D)
    already (``out_type='cls_token'``) stays.
    """
    return pooled(model.extract_feat(images), getattr(model.backbone, "num_extra_tokens", 0))


def pooled(feature: Tensor | tuple[Tensor, ...], extra: int) -> Tensor:
    """The last feature, pooled, (B, D) in float32; a sequence begins with ``extra`` tokens."""
    feature = (feature[-1] if isinstance(feature, tuple | list) else feature).float()
    if feature.ndim == 4:
        feature = feature.mean((2, 3))
    elif feature.ndim == 3:
        feature = feature[:, extra:].mean(1)
    return feature


def in_order(share: Tensor, images: int) -> Tensor:
    """The shares of all processes; rank r of W holds images r, r + W, ..., the first repeated."""
    shares = all_gather(share)
    return share if len(shares) == 1 else torch.stack(shares, 1).flatten(0, 1)[:images]
