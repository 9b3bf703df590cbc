"""Reading an image file, or saying which one cannot be read; the order of the channels."""

from typing import Any

from mmcv.transforms import BaseTransform, LoadImageFromFile

from xtra_toolkit.registry import TRANSFORMS


@TRANSFORMS.register_module()
class LoadImage(LoadImageFromFile):
    """MMCV's ``LoadImageFromFile``, decoding with Pillow.

    OpenCV, MMCV's default, gives no cause for what it cannot decode, and before version 5 it
    completes a truncated JPEG without a word. The result is as there: ``img`` is uint8 of shape
    (H, W, 3), BGR, turned as its EXIF says.

    Raises:
        ValueError: the file is absent, truncated or no image; it names the file and the cause.
    """

    def __init__(self, imdecode_backend: str = "pillow", **kwargs: Any):
        super().__init__(imdecode_backend=imdecode_backend, **kwargs)

    def transform(self, results: dict) -> dict | None:
        try:
            return super().transform(results)
        except Exception as error:  # Pillow alone raises OSError, ValueError, SyntaxError, ...
            raise ValueError(
                f"Cannot read the image {results['img_path']!r}: {type(error).__name__}: {error}. "
                "Replace the file or take it out of the data set."
            ) from error


@TRANSFORMS.register_module()
class RGBToBGR(BaseTransform):
    """Swaps the channels of ``img``, (H, W, 3): for data sets that hold their images in memory.

    MMPretrain's CIFAR gives RGB where files are read as BGR; after this all are treated alike.
    """

    def transform(self, results: dict) -> dict:
        results["img"] = results["img"][..., ::-1].copy()
        return results
