"""Turn an image into the input of an encoder, as its checkpoint records."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from xtra_toolkit.data.image_reading.pillow import decode

CROP = 0.875  # share of the shorter side that the centre crop keeps, for example 224 of 256 px


class Transform:
    """Turn an image into the input of its encoder, (C, height, width), float32.

    The image is scaled by bicubic interpolation so that the centre crop, of the encoder's size,
    keeps 7/8 of the shorter side. The channels are put into the encoder's order and normalised by
    the mean and the standard deviation of its training.

    Args:
        size: Height and width of the encoder's images in pixels.
        mean, std: Mean and standard deviation of each channel, in pixel values of 0 to 255.
        order: Order of the channels: ``'RGB'``, ``'BGR'`` or ``'gray'``.
    """

    def __init__(
        self, size: tuple[int, int], mean: tuple[float, ...], std: tuple[float, ...], order: str
    ):
        self.size, self.mean, self.std, self.order = size, mean, std, order

    def __call__(self, image: "Image.Image | np.ndarray | str | Path") -> Tensor:
        """Transform a PIL image, an array of uint8 (H, W, 3) in RGB or (H, W), or a file.

        Raises:
            ValueError: The image is none of these, or the file cannot be read.
        """
        pixels = np.asarray(self._crop(self._open(image)))
        pixels = pixels[..., ::-1] if self.order == "BGR" else pixels
        tensor = torch.from_numpy(pixels.astype(np.float32)).reshape(*self.size, -1)
        return ((tensor - torch.tensor(self.mean)) / torch.tensor(self.std)).permute(2, 0, 1)

    def __repr__(self) -> str:
        return (
            f"Transform(size={self.size}, mean={self.mean}, std={self.std}, order={self.order!r})"
        )

    def _open(self, image: "Image.Image | np.ndarray | str | Path") -> Image.Image:
        if isinstance(image, str | Path):
            image = _read(Path(image))
        elif isinstance(image, np.ndarray) and image.dtype == np.uint8:
            image = Image.fromarray(image)
        if not isinstance(image, Image.Image):
            raise ValueError(
                f"an image is a PIL image, an array of uint8 or the name of a file; given: "
                f"{type(image).__name__}"
            )
        return image.convert("L" if self.order == "gray" else "RGB")

    def _crop(self, image: Image.Image) -> Image.Image:
        height, width = self.size
        scale = max(height / image.height, width / image.width) / CROP
        resized = [
            max(round(side * scale), s) for side, s in zip(image.size, (width, height), strict=True)
        ]
        image = image.resize(resized, Image.Resampling.BICUBIC)
        left, top = ((side - s) // 2 for side, s in zip(image.size, (width, height), strict=True))
        return image.crop((left, top, left + width, top + height))


def _read(path: Path) -> Image.Image:
    try:
        return Image.fromarray(np.ascontiguousarray(decode(path.read_bytes())[..., ::-1]))
    except Exception as error:  # Pillow alone raises OSError, ValueError, SyntaxError, ...
        raise ValueError(
            f"the image {str(path)!r} cannot be read: {type(error).__name__}: {error}"
        ) from error
