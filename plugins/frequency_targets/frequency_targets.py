"""Filter the image by frequency before another target takes its values from it.

SAIM (arXiv 2212.01610) predicts blurred pixels, and XTRA (arXiv 2411.15648) argues that a
representation learns from low frequencies. These targets let you measure it.

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
    """Keep the links of another target, and take its values from filtered images (a base class).

    The whole image is filtered and then cut into tokens, so the values of a token also depend on
    its neighbours, including those that the prediction may attend to. The prediction attends to
    the target's own pixels no more than without the filter: the certificate is the inner target's,
    and it says that the values depend on pixels of other tokens (``local = False``).

    Args:
        target: Config of the target that says what predicts what (NextBlock, MaskedPatches, ...).
            Its ``normalise`` is applied after the filter.
    """

    local = False

    def transfer(self, frequency: Tensor) -> Tensor:
        """Return the gain at each frequency, in cycles per pixel (Nyquist frequency: 0.5)."""
        raise NotImplementedError

    def links(self, mask: Mask, grid: PatchGrid) -> list[Links]:
        """Return the links of the inner target; ValueError if the filter leaves only the mean."""
        height, width = grid.rows * grid.patch[0], grid.cols * grid.patch[1]
        if not self.transfer(frequencies(height, width)).flatten()[1:].any():
            raise ValueError(
                f"{type(self).__name__} leaves only the mean of an image of {height}×{width} px; "
                f"its lowest frequency is {0.5 / max(height, width):g} cycles per pixel"
            )
        return super().links(mask, grid)

    def values(self, images: Tensor, grid: PatchGrid) -> Tensor:
        """Return what is predicted of images (B, C, H, W), as (B, N, V) in raster order."""
        return super().values(self.filter(images), grid)

    def filter(self, images: Tensor) -> Tensor:
        """Filter images (B, C, H, W), mirrored at the edges; never in half precision."""
        device = "cpu" if images.is_meta else images.device.type
        with torch.autocast(device, enabled=False):
            rows, cols = (dct(n, images.dtype, images.device) for n in images.shape[-2:])
            gain = self.transfer(frequencies(*images.shape[-2:], images.device)).to(images.dtype)
            return rows.T @ (rows @ images @ cols.T * gain) @ cols


@MODELS.register_module()
class LowPass(Filtered):
    """Keep the frequencies up to ``cutoff`` and remove all others.

    Args:
        target: See :class:`Filtered`.
        cutoff: The highest frequency that is kept, in cycles per pixel. 1/16 keeps waves of 16
            pixels and longer.

    Raises:
        ValueError: The cutoff is not above 0 and at most 0.5.
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
        """Return 1 up to the cutoff, and 0 above it."""
        return frequency <= self.cutoff


@MODELS.register_module()
class HighPass(LowPass):
    """Keep only what :class:`LowPass` removes, as the control of an experiment with it."""

    def transfer(self, frequency: Tensor) -> Tensor:
        """Return 0 up to the cutoff, and 1 above it."""
        return frequency > self.cutoff


@MODELS.register_module()
class Blur(Filtered):
    """Blur by a Gaussian as SAIM does. Its gain falls smoothly, so the image does not ring.

    Args:
        target: See :class:`Filtered`.
        sigma: Standard deviation of the Gaussian in pixels.

    Raises:
        ValueError: ``sigma`` is not above 0.
    """

    def __init__(self, target: dict, sigma: float):
        super().__init__(target)
        if not sigma > 0:
            raise ValueError(f"Blur was given sigma={sigma}; it is in pixels, above 0")
        self.sigma = sigma

    def transfer(self, frequency: Tensor) -> Tensor:
        """Return the Fourier transform of the Gaussian."""
        return torch.exp(-2 * (math.pi * self.sigma * frequency) ** 2)


@lru_cache(maxsize=16)
def frequencies(height: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """Return the frequency of each coefficient of :func:`dct`, (H, W), in cycles per pixel."""
    vertical, horizontal = (torch.arange(n, device=device) / (2 * n) for n in (height, width))
    return torch.hypot(vertical[:, None], horizontal[None, :])


@lru_cache(maxsize=16)
def dct(n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the orthonormal DCT-II, (n, n); row k is a wave of k / 2n cycles per pixel."""
    index = torch.arange(n, device=device)
    phase = index[:, None] * (2 * index + 1) % (4 * n)  # integers, so exact at any size
    waves = (phase.to(dtype) * (math.pi / (2 * n))).cos() * math.sqrt(2 / n)
    waves[0] *= math.sqrt(0.5)
    return waves
