"""Weights and images of the golden XTRA cases, drawn by recipe (see golden/README.md)."""

from collections.abc import Sequence
from hashlib import sha256

import numpy as np
import torch
from torch import Tensor

NORM_WEIGHTS = ("norm.weight", "norm1.weight", "norm2.weight")


def weight(name: str, shape: Sequence[int]) -> Tensor:
    """Return the parameter that the original code calls ``name``, in float32."""
    seed = int.from_bytes(sha256(name.encode()).digest()[:4], "little")
    draw = np.random.default_rng(seed).standard_normal(tuple(shape)).astype(np.float32)
    return torch.from_numpy(1 + 0.1 * draw if name.endswith(NORM_WEIGHTS) else 0.05 * draw)


def images(size: int) -> Tensor:
    """Return two images (2, 3, size, size) that count as normalised."""
    draw = np.random.default_rng(7).standard_normal((2, 3, size, size))
    return torch.from_numpy(draw.astype(np.float32))
