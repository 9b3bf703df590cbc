"""Resize any box of an image to any size, by Pillow's antialiased bicubic filter.

A box of whole pixels is resized by torch's kernel for uint8 (AVX2), whose result is within one grey
level of Pillow's. Boxes in images that were decoded at a reduced scale begin and end between
pixels, which that kernel does not support: for them two passes compute weighted sums of rows
(``embedding_bag``).
"""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

Box = tuple[float, float, float, float]  # top, left, height, width


def resize(img: np.ndarray, box: Box, size: tuple[int, int]) -> np.ndarray:
    """Resize a box of ``img``, uint8 (H, W, C), to uint8 (*size, C).

    The numbers of the box are either all int or all float.
    """
    top, left, height, width = box
    rows, cols = slice(int(top), math.ceil(top + height)), slice(int(left), math.ceil(left + width))
    crop = np.ascontiguousarray(img[rows, cols])  # as fast as strides, which may be negative
    if not isinstance(top, int):
        return _between_pixels(torch.from_numpy(crop), (top % 1, left % 1, height, width), size)
    channels_last = torch.from_numpy(crop)[None].permute(0, 3, 1, 2)
    out = F.interpolate(channels_last, size, mode="bicubic", antialias=True)
    return out[0].permute(1, 2, 0).numpy()


def _between_pixels(crop: Tensor, box: Box, size: tuple[int, int]) -> np.ndarray:
    """Resize a box with fractional edges, from uint8 (H, W, C) to uint8 (*size, C)."""
    top, left, height, width = box
    rows, cols, channels = crop.shape
    index, weights = _taps(size[0], top, height, rows)
    down = F.embedding_bag(
        index, crop.reshape(rows, -1).float(), per_sample_weights=weights, mode="sum"
    )
    columns = down.view(size[0], cols, channels).permute(1, 2, 0).reshape(cols, -1)
    index, weights = _taps(size[1], left, width, cols)
    out = F.embedding_bag(index, columns, per_sample_weights=weights, mode="sum")
    out = out.view(size[1], channels, size[0]).permute(2, 0, 1)
    return out.round().clamp_(0, 255).to(torch.uint8).contiguous().numpy()


def _taps(count: int, start: float, length: float, pixels: int) -> tuple[Tensor, Tensor]:
    """Return the input pixels of each of ``count`` outputs and their weights, (count, taps)."""
    scale = max(length / count, 1.0)
    centre = start + (torch.arange(count, dtype=torch.float64)[:, None] + 0.5) * length / count
    taps = torch.arange(math.ceil(4 * scale) + 1)
    index = (centre - 2 * scale).floor().long() + taps
    weights = _cubic((index + 0.5 - centre).abs() / scale) * (index >= 0) * (index < pixels)
    weights = weights / weights.sum(1, keepdim=True)
    return index.clamp(0, pixels - 1), weights.float()


def _cubic(x: Tensor) -> Tensor:
    """Evaluate Keys' cubic kernel with a = -0.5, as Pillow does."""
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))
