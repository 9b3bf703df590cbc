"""Predict the colour cluster of the next pixel: the target of iGPT.

ICML 2020; openai/image-gpt at c6af2eb.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.registry import MODELS
from xtra_toolkit.targets.next import NextToken


@MODELS.register_module()
class NextColour(NextToken):
    """Predict at position i which of K colours is nearest to the pixel at position i + 1.

    The values are class ids, so the head's loss must be ``'cross_entropy'``. A token must be a
    single pixel: ``patch_size=1``.

    Args:
        clusters: A .npy file of shape (K, C) with colours in the range of the images that leave the
            data preprocessor. ``xtra clusters`` makes such a file from a folder of images. The file
            of iGPT, RGB from -1 to 1, fits images that are normalised by mean 127.5 and std 127.5.

    Raises:
        ValueError: The file does not exist or holds no table of colours, or a token is not a single
            pixel.
    """

    classes = True
    pixels = False

    def __init__(self, clusters: str):
        super().__init__(normalise=False)
        if not Path(clusters).is_file():
            raise ValueError(
                f"no file of colour clusters at {str(Path(clusters).resolve())!r}; make one from "
                f"your images: xtra clusters /path/to/images {clusters}"
            )
        colours = torch.tensor(np.load(clusters), dtype=torch.float32)
        if colours.ndim != 2:
            raise ValueError(
                f"{clusters} holds an array of shape {tuple(colours.shape)}; colour clusters are "
                "a table of (clusters, channels)"
            )
        self.register_buffer("colours", colours)

    def width(self, grid: PatchGrid) -> int:
        """Return the number of colours, after checking that a token is a single pixel."""
        if grid.values != self.colours.shape[1]:
            raise ValueError(
                f"a token of {grid} has {grid.values} values, and a colour has "
                f"{self.colours.shape[1]}; NextColour predicts single pixels (patch_size=1)"
            )
        return len(self.colours)

    def values(self, images: Tensor, grid: PatchGrid) -> Tensor:
        """Compute the id of the nearest colour, (B, N, 1), of images (B, C, height, width)."""
        pixels = grid.patchify(images).to(self.colours)
        return torch.cdist(pixels, self.colours).argmin(-1, keepdim=True)
