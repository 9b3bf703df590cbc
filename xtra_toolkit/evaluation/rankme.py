"""RankMe: the effective rank of features, which falls when a representation collapses.

Source: Garrido, Balestriero, Najman and LeCun, ICML 2023 (arXiv 2210.02885), equation 1.
"""

import torch
from torch import Tensor


def rankme(features: Tensor, eps: float = 1e-7) -> float:
    """Return the exponential of the entropy of the normalised singular values.

    The features are not centred, as in the paper. The value is about 1 if all features are
    multiples of one vector, and at most min(N, D), so only values of equally many images compare.

    Args:
        features: (N, D) features of N images.
        eps: Number that is added to each normalised singular value, 1e-7 in the paper.

    Returns:
        The effective rank. NaN if a feature is not finite, or all are zero.
    """
    if not features.isfinite().all():
        return torch.nan
    values = torch.linalg.svdvals(features.float())
    shares = values / values.sum() + eps
    return float(torch.exp(-(shares * shares.log()).sum()))
