"""The next pixel's colour cluster: the target of iGPT (ICML 2020; openai/image-gpt at c6af2eb)."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.registry import MODELS
from xtra_toolkit.targets.next import NextToken


@MODELS.register_module()
class NextColour(NextToken):
    """Position i predicts which of K colours the pixel at position i + 1 is nearest to.

    Its values are class ids, so the head's loss is ``'cross_entropy'``. A token is one pixel:
    ``patch_size=1``.

    Args:
        clusters: a .npy file of shape (K, C), colours as the images come out of the data
            preprocessor; ``xtra clusters`` makes one of your images. iGPT's own file, in -1 to 1
            and RGB, fits images normalised by mean 127.5 and std 127.5.

    Raises:
        ValueError: the file is absent or no table of colours, or a token is no single pixel.
    """

    classes = True
    pixels = False

    def __init__(self, clusters: str):
        super().__init__(normalise=False)
        if not Path(clusters).is_file():
            raise ValueError(
                f"no file of colour clusters at {str(Path(clusters).resolve())!r}; make one of "
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
        """Classes of one token."""
        if grid.values != self.colours.shape[1]:
            raise ValueError(
                f"a token of {grid} has {grid.values} values, and a colour has "
                f"{self.colours.shape[1]}; NextColour predicts single pixels (patch_size=1)"
            )
        return len(self.colours)

    def values(self, images: Tensor, grid: PatchGrid) -> Tensor:
        """(B, C, height, width) to the id of the nearest colour, (B, N, 1)."""
        pixels = grid.patchify(images).to(self.colours)
        return torch.cdist(pixels, self.colours).argmin(-1, keepdim=True)
