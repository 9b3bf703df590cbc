"""Spearman's rank correlation, ties sharing their mean rank."""

import numpy as np

FEWEST = 3  # points of which an order says anything


def ranks(values: np.ndarray) -> np.ndarray:
    """1 for the least; equal values share the mean of their ranks."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (counts.cumsum() - (counts - 1) / 2)[place]


def spearman(x: np.ndarray, y: np.ndarray) -> float | None:
    """In [-1, 1]; None for fewer than three pairs, and where all of one are equal."""
    if len(x) < FEWEST or len(np.unique(x)) < 2 or len(np.unique(y)) < 2:
        return None
    return float(np.corrcoef(ranks(x), ranks(y))[0, 1])
