"""Decode JPEGs by simplejpeg, if it is installed, and all other files by Pillow.

simplejpeg (the extra ``fast``) reads the size before it decodes, decodes at 1/2, 1/4 or 1/8, and
skips rows that are not needed. Its fast DCT is not used: it would save a hundredth of the time and
leave a zone plate with 12 % more energy above Nyquist. Files that simplejpeg cannot decode go to
Pillow, which decides whether a file is broken.
"""

from dataclasses import dataclass

import numpy as np

from xtra_toolkit.data.image_reading.pillow import open_image

try:
    import simplejpeg
except ImportError:  # the extra "fast"
    simplejpeg = None

ORIENTATION = 0x0112  # EXIF's tag
# EXIF orientation -> (whether to swap rows and columns, step along rows, step along columns)
TURNS = {
    1: (False, 1, 1),
    2: (False, 1, -1),
    3: (False, -1, -1),
    4: (False, -1, 1),
    5: (True, 1, 1),
    6: (True, 1, -1),
    7: (True, -1, -1),
    8: (True, -1, 1),
}


@dataclass(frozen=True)
class Jpeg:
    """Hold a JPEG that simplejpeg can decode.

    Args:
        data: Content of the file.
        stored: Height and width in the file, before it is turned.
        orientation: Orientation by EXIF or XMP, 1 to 8.
        height_at: Offset of the height in the file; None if it must not be changed.
    """

    data: bytes
    stored: tuple[int, int]
    orientation: int
    height_at: int | None

    @classmethod
    def of(cls, data: bytes) -> "Jpeg | None":
        """Read the header; None if simplejpeg is absent or cannot decode it (PNG, CMYK, broken)."""
        if simplejpeg is None or data[:2] != b"\xff\xd8":
            return None
        try:
            height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        except ValueError:
            return None
        return cls(data, (height, width), *_header(data)) if "K" not in colours else None

    @property
    def shape(self) -> tuple[int, int]:
        """Return height and width after the image is turned."""
        return self.stored[::-1] if TURNS[self.orientation][0] else self.stored

    def decode(self, factor: int = 1, bottom: int | None = None) -> np.ndarray:
        """Decode the image, reduced and turned.

        Args:
            factor: Reduction, 1, 2, 4 or 8.
            bottom: First row of the file that need not be decoded. Default: the height.

        Returns:
            uint8 (ceil(H / factor), ceil(W / factor), 3), BGR.

        Raises:
            ValueError: libjpeg warns of something, which Pillow may accept.
        """
        (height, width), data, at = self.stored, self.data, self.height_at
        shorter = bottom is not None and at is not None and bottom < height
        if shorter:  # libjpeg stops at the height in the header, and warns of the rest
            height = bottom
            data = b"".join((data[:at], height.to_bytes(2, "big"), data[at + 2 :]))
        rows, cols = -(-height // factor), -(-width // factor)
        img = simplejpeg.decode_jpeg(
            data, "BGR", fastupsample=True, min_height=rows, min_width=cols, strict=not shorter
        )
        assert img.shape[:2] == (rows, cols), (img.shape, factor)
        swapped, down, right = TURNS[self.orientation]
        return (img.swapaxes(0, 1) if swapped else img)[::down, ::right]

    def scaled(self, box: tuple[int, ...], factor: int) -> tuple[float, ...]:
        """Convert a box (top, left, height, width) of the turned image to ``decode(factor)``."""
        _, *steps = TURNS[self.orientation]
        (top, left, height, width), spare = box, [-side % factor for side in self.shape]
        # the last pixel may cover less than the factor, and turning may put it first
        top += spare[0] if steps[0] < 0 else 0
        left += spare[1] if steps[1] < 0 else 0
        return top / factor, left / factor, height / factor, width / factor


def _header(data: bytes) -> tuple[int, int | None]:
    """Return the orientation, and the offset of the height in a whole upright baseline file."""
    at, orientation = 2, 1
    while data[at : at + 1] == b"\xff" and at + 4 < len(data):
        marker = data[at + 1]
        if marker == 0xE1:  # EXIF or XMP: Pillow takes 60 µs to read it, most files have none
            found = open_image(data).getexif().get(ORIENTATION, 1)
            orientation = found if found in TURNS else 1
        if 0xC0 <= marker <= 0xC2:  # the frame: baseline, extended, progressive
            whole = marker != 0xC2 and orientation == 1 and data[-2:] == b"\xff\xd9"
            return orientation, at + 5 if whole else None
        at += 1 if marker == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return orientation, None
