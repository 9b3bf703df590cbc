"""Read image files, report those that cannot be read, and reorder channels."""

from mmcv.transforms import BaseTransform
from mmengine import fileio

from xtra_toolkit.data.image_reading.pillow import MAX_PIXELS, MODE, decode
from xtra_toolkit.registry import TRANSFORMS


class UnreadableImage(ValueError):
    """Report an image file that cannot be read; ``path`` and ``cause`` name it and say why."""

    path: str
    cause: str


def unreadable(path: str, error: Exception) -> UnreadableImage:
    """Make the error for a file that cannot be read."""
    cause = f"{type(error).__name__}: {error}"
    unreadable_image = UnreadableImage(
        f"Cannot read the image {path!r}: {cause}. Replace the file or take it out of the data set."
    )
    unreadable_image.path, unreadable_image.cause = path, cause
    return unreadable_image


@TRANSFORMS.register_module()
class ReadImage(BaseTransform):
    """Read the bytes of a file as ``img_bytes``; ``RandomResizedCrop`` decodes them.

    If the data set gives ``img_bytes`` itself, as ``Shards`` does, nothing is read.

    Args:
        backend_args: Arguments of ``mmengine.fileio.get``, for files that are not on a disk.

    Raises:
        UnreadableImage: The file cannot be read. This is a ValueError that names the file and the
            cause.
    """

    def __init__(self, backend_args: dict | None = None):
        self.backend = fileio.get_file_backend(backend_args=backend_args or dict(backend="local"))

    def transform(self, results: dict) -> dict:
        if "img_bytes" in results:
            return results
        try:
            results["img_bytes"] = self.backend.get(results["img_path"])
        except Exception as error:  # each backend has its own
            raise unreadable(results["img_path"], error) from error
        return results


@TRANSFORMS.register_module()
class LoadImage(ReadImage):
    """Load ``img``, ``img_shape`` and ``ori_shape`` as MMCV's ``LoadImageFromFile``, by Pillow.

    OpenCV, the default of MMCV, gives no cause for a file that it cannot decode, and before version
    5 it silently completes a truncated JPEG. ``img`` is uint8 of shape (H, W, 3), BGR, turned by
    its EXIF orientation.

    Args:
        color_type: ``'color'``, or ``'grayscale'`` for an ``img`` of (H, W).
        max_pixels: Largest number of pixels of an image that is decoded. Decoding needs 5 to 10
            bytes a pixel, 17 for a WebP: 1 GB, or 1.7 GB, with the default.
        backend_args: See ``ReadImage``.

    Raises:
        UnreadableImage: The file is absent, truncated, no image or too large. This is a ValueError
            that names the file and the cause.
    """

    def __init__(
        self,
        color_type: str = "color",
        max_pixels: int = MAX_PIXELS,
        backend_args: dict | None = None,
    ):
        super().__init__(backend_args)
        if color_type not in MODE:
            raise ValueError(f"LoadImage has the color_type {', '.join(MODE)}, not {color_type!r}.")
        self.color_type, self.max_pixels = color_type, max_pixels

    def transform(self, results: dict) -> dict:
        data = super().transform(results).pop("img_bytes")
        try:
            results["img"] = decode(data, self.max_pixels, self.color_type)
        except Exception as error:  # Pillow alone raises OSError, ValueError, SyntaxError, ...
            raise unreadable(results["img_path"], error) from error
        results["img_shape"] = results["ori_shape"] = results["img"].shape[:2]
        return results


@TRANSFORMS.register_module()
class RGBToBGR(BaseTransform):
    """Swap the channels of ``img``, (H, W, 3), for data sets that hold their images in memory.

    MMPretrain's CIFAR gives RGB, while files are read as BGR.
    """

    def transform(self, results: dict) -> dict:
        results["img"] = results["img"][..., ::-1].copy()
        return results
