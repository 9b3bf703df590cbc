"""Convert any image file to 8-bit colour by Pillow, without Pillow's pitfalls.

``convert("RGB")`` of Pillow 13 turns 16-bit grey into white, and shows the colours of transparent
pixels.
"""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

MAX_PIXELS = 100_000_000  # 1 GB while decoded: 5 to 10 bytes a pixel; 1.7 GB of a WebP, 17
STRIP = 1 << 21  # pixels of a large image that are converted at a time
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # formats that are read
BACKGROUND = (124, 117, 104)  # ImageNet's mean colour, MMCV's background of grey with alpha
MODE = {"color": "RGB", "grayscale": "L"}  # MMCV's names


def open_image(data: bytes, formats: Sequence[str] = FORMATS) -> Image.Image:
    """Read the header of an image, without the size limit of Pillow.

    Check the size by :func:`refuse_larger`, whose limit can be chosen.

    Args:
        data: Content of the file.
        formats: Formats that are accepted, by Pillow's names. Pillow looks at the content, not at
            the file name, and passes some formats to other programs (EPS to Ghostscript).

    Raises:
        Exception: Any exception of Pillow (OSError, ValueError, SyntaxError, ...).
    """
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        return Image.open(io.BytesIO(data), formats=formats)
    except UnidentifiedImageError:  # its message shows a memory address only
        reason = f"no image of the kinds {', '.join(formats)}" if data else "the file is empty"
        raise ValueError(reason) from None
    finally:
        Image.MAX_IMAGE_PIXELS = before


def refuse_larger(shape: tuple[int, int], max_pixels: int) -> None:
    """Raise a ValueError if an image (height, width) has more than ``max_pixels`` pixels."""
    height, width = shape
    if height * width > max_pixels:
        raise ValueError(
            f"{width:,} x {height:,} are {height * width:,} pixels, and max_pixels is "
            f"{max_pixels:,}: a pixel takes 5 to 17 bytes while it is decoded"
        )


def decode(data: bytes, max_pixels: int = MAX_PIXELS, flag: str = "color") -> np.ndarray:
    """Decode the first frame of an image, turned by its EXIF orientation.

    Args:
        data: Content of the file.
        max_pixels: Largest number of pixels that is accepted.
        flag: ``'color'`` or ``'grayscale'``.

    Returns:
        uint8 (H, W, 3), BGR, or (H, W) for ``'grayscale'``.

    Raises:
        Exception: Any exception of Pillow, or a ValueError: the file is no image, truncated, too
            large, or has float pixels, whose range is unknown.
    """
    img = open_image(data)
    refuse_larger(img.size[::-1], max_pixels)
    ImageOps.exif_transpose(img, in_place=True)
    width, height = img.size
    rows = max(1, STRIP // max(1, width))
    if rows >= height:
        return _pixels(img, flag)
    pixels = np.empty((height, width, 3) if flag == "color" else (height, width), np.uint8)
    for top in range(0, height, rows):  # in strips, since each step of a conversion copies
        strip = img.crop((0, top, width, min(top + rows, height)))
        pixels[top : top + rows] = _pixels(strip, flag)
    return pixels


def _pixels(img: Image.Image, flag: str) -> np.ndarray:
    """Convert an image, or a strip of one, to the pixels that :func:`decode` returns."""
    img = _eight_bits(img)
    if img.has_transparency_data:
        img = img.convert("RGBA")
        img = Image.alpha_composite(Image.new("RGBA", img.size, BACKGROUND), img)
    pixels = np.asarray(img.convert("RGB").convert(MODE[flag]))
    # torch warns of Pillow's read-only memory; colours are copied later, when they are packed
    return pixels[..., ::-1] if pixels.ndim == 3 else pixels.copy()


def _eight_bits(img: Image.Image) -> Image.Image:
    """Reduce 16-bit grey (modes I;16 and I) to its upper 8 bits."""
    if not img.mode.startswith(("I", "F")):
        return img
    pixels = np.asarray(img)
    if img.mode == "F" or pixels.min() < 0 or pixels.max() > 0xFFFF:
        raise ValueError(f"pixels of the mode {img.mode}, from {pixels.min()} to {pixels.max()}")
    return Image.fromarray((pixels >> 8).astype(np.uint8))
