"""Histograms of oriented gradients as a target: MaskFeat (arXiv 2112.09133)."""

from collections.abc import Callable

import torch
from einops import rearrange
from torch import Tensor

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.objective.target import Target
from xtra_toolkit.registry import MODELS
from xtra_toolkit.targets.wrapped import WrappedTarget


@MODELS.register_module()
class HOG(WrappedTarget):
    """Predict the histogram of oriented gradients of each token, over the links of another target.

    The histograms are those of MMPretrain's HOGGenerator, always computed in float32. The values of
    a token are in the order (channel, bin, row of cells, column of cells).

    Args:
        target: Config of the target that says what predicts what. Default: MaskedPatches.
        bins: Number of orientations.
        cell: Side of the square over which a histogram is taken, in pixels. It divides the patch.
        window: Side of the Gaussian window that weights the gradients, in pixels; it repeats over
            the image. 0: no weights.
    """

    classes = probabilities = False
    local = False  # the gradient at the border of a token reads its neighbours
    normalises = False
    pixels = False

    def __init__(
        self,
        target: dict | Target | None = None,
        bins: int = 9,
        cell: int = 8,
        window: int = 16,
    ):
        super().__init__(target or dict(type="xtra_toolkit.MaskedPatches"))
        self.bins, self.cell, self.window = bins, cell, window
        hog = dict(type="mmpretrain.HOGGenerator", nbins=bins, pool=cell, gaussian_window=window)
        generator = MODELS.build(hog)
        generator.__dict__["_reshape"] = _unchanged  # its own supports 14×14 tokens only
        self.__dict__["generator"] = generator  # no submodule: it holds constants, in float32

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "HOG":
        self.generator._apply(lambda constant: _moved(constant, fn(constant)))
        return super()._apply(fn, recurse)

    def width(self, grid: PatchGrid) -> int:
        """Return how many values the head predicts for one token.

        Raises:
            ValueError: The images are not in colour, or cells or windows do not fit them.
        """
        (p, q), (height, width) = grid.patch, grid.img_size
        square = not self.window or (height == width and height % self.window == 0)
        if grid.channels != 3 or p % self.cell or q % self.cell or not square:
            raise ValueError(
                f"HOG(cell={self.cell}, window={self.window}) needs colour images, cells that tile "
                f"a patch and, unless window=0, square images that windows tile; given: {grid} of "
                f"{grid.channels} channels"
            )
        return 3 * self.bins * (p // self.cell) * (q // self.cell)

    def values(self, images: Tensor, grid: PatchGrid) -> Tensor:
        """Return the histograms of images (B, 3, height, width), as (B, N, V) in raster order."""
        device = "cpu" if images.is_meta else images.device.type  # there is no autocast on meta
        with torch.autocast(device, enabled=False):
            cells = self.generator(images.float())  # (B, 3, bins, rows, cols) of cells
        shape = dict(r=grid.rows, s=grid.cols)
        cells = rearrange(cells, "b c o (r p) (s q) -> b (r s) (c o p q)", **shape)
        return cells.to(images.dtype)

    def normalise(self, values: Tensor) -> Tensor:
        """Return the histograms as they are; each is normalised already."""
        return values


def _moved(constant: Tensor, converted: Tensor) -> Tensor:
    """Return a constant on its new device, in its own dtype."""
    return converted if converted.dtype == constant.dtype else constant.to(converted.device)


def _unchanged(cells: Tensor) -> Tensor:
    return cells
