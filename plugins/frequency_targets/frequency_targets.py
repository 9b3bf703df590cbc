"""Targets of chosen frequencies: any target, of a filtered image.

SAIM (arXiv 2212.01610) predicts blurred pixels; XTRA (arXiv 2411.15648) holds that low frequencies
are what a representation learns from. This puts the question as a number.

Shape legend: B images, C channels, H and W pixels.
"""

import math
from functools import lru_cache

import torch
from torch import Tensor

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.masks import Mask
from xtra_toolkit.objective.links import Links
from xtra_toolkit.registry import MODELS
from xtra_toolkit.targets import WrappedTarget


class Filtered(WrappedTarget):
    """Base: another target's links, of images that went through a filter.

    The whole image is filtered, then cut into tokens: a token's values hold light of its
    neighbours, of those that the sources saw too. No pixel of the target itself is seen any more
    than without the filter, and the certificate is the inner target's; that the values depend on
    pixels of other tokens (``local = False``) is said in it.

    Args:
        target: config of the target that says what predicts what (NextBlock, MaskedPatches, ...);
            its ``normalise`` comes after the filter.
    """

    local = False

    def transfer(self, frequency: Tensor) -> Tensor:
        """How much of each frequency passes, in cycles per pixel (0.5: the Nyquist frequency)."""
        raise NotImplementedError

    def links(self, mask: Mask, grid: PatchGrid) -> list[Links]:
        """Of the inner target; ValueError where the filter leaves nothing to predict."""
        height, width = grid.rows * grid.patch[0], grid.cols * grid.patch[1]
        if not self.transfer(frequencies(height, width)).flatten()[1:].any():
            raise ValueError(
                f"{type(self).__name__} leaves only the mean of an image of {height}×{width} px; "
                f"its slowest wave has {0.5 / max(height, width):g} cycles per pixel"
            )
        return super().links(mask, grid)

    def values(self, images: Tensor, grid: PatchGrid) -> Tensor:
        """(B, C, H, W) to what is predicted, (B, N, V) in raster order."""
        return super().values(self.filter(images), grid)

    def filter(self, images: Tensor) -> Tensor:
        """(B, C, H, W) filtered, the image mirrored at its edges; never in half precision."""
        device = "cpu" if images.is_meta else images.device.type
        with torch.autocast(device, enabled=False):
            like = images.dtype, images.device
            rows, cols = (dct(n, *like) for n in images.shape[-2:])
            gain = self.transfer(frequencies(*images.shape[-2:], images.device)).to(images.dtype)
            return rows.T @ (rows @ images @ cols.T * gain) @ cols


@MODELS.register_module()
class LowPass(Filtered):
    """Waves of at most ``cutoff`` pass as they are, all others not at all.

    Args:
        target: see :class:`Filtered`.
        cutoff: in cycles per pixel: 1/16 keeps waves of 16 pixels and longer.
    """

    def __init__(self, target: dict, cutoff: float):
        super().__init__(target)
        if not 0 < cutoff <= 0.5:
            raise ValueError(
                f"{type(self).__name__} was given cutoff={cutoff}; it is in cycles per pixel, "
                "above 0 and at most 0.5 (the Nyquist frequency): 1 / the shortest wave in pixels"
            )
        self.cutoff = cutoff

    def transfer(self, frequency: Tensor) -> Tensor:
        """1 up to the cutoff, then 0."""
        return frequency <= self.cutoff


@MODELS.register_module()
class HighPass(LowPass):
    """What :class:`LowPass` takes away: the control of its experiment."""

    def transfer(self, frequency: Tensor) -> Tensor:
        """0 up to the cutoff, then 1."""
        return frequency > self.cutoff


@MODELS.register_module()
class Blur(Filtered):
    """A Gaussian blur, as SAIM's: no edge in frequency, and no ringing in space.

    Args:
        target: see :class:`Filtered`.
        sigma: of the Gaussian, in pixels.
    """

    def __init__(self, target: dict, sigma: float):
        super().__init__(target)
        if not sigma > 0:
            raise ValueError(f"Blur was given sigma={sigma}; it is in pixels, above 0")
        self.sigma = sigma

    def transfer(self, frequency: Tensor) -> Tensor:
        """The Gaussian's Fourier transform."""
        return torch.exp(-2 * (math.pi * self.sigma * frequency) ** 2)


@lru_cache(maxsize=16)
def frequencies(height: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """(H, W): cycles per pixel of each wave of :func:`dct`, in whatever direction."""
    down, across = (torch.arange(n, device=device) / (2 * n) for n in (height, width))
    return torch.hypot(down[:, None], across[None, :])


@lru_cache(maxsize=16)
def dct(n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(n, n): the orthonormal DCT-II; row k is a wave of k / 2n cycles per pixel."""
    at = torch.arange(n, device=device)
    phase = at[:, None] * (2 * at + 1) % (4 * n)  # whole numbers: exact at any size
    waves = (phase.to(dtype) * (math.pi / (2 * n))).cos() * math.sqrt(2 / n)
    waves[0] *= math.sqrt(0.5)
    return waves
