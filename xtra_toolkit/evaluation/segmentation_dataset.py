"""A data set of images with segmentation maps, and transforms that keep both aligned."""

import os.path
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
from mmcv.transforms import LoadAnnotations
from mmengine import fileio
from mmpretrain.datasets import BaseDataset
from mmpretrain.datasets.transforms import RandomResizedCrop

from xtra_toolkit.data.datasets.image_folder import EXTENSIONS
from xtra_toolkit.data.image_reading.pillow import MAX_PIXELS, open_image, refuse_larger
from xtra_toolkit.data.seeding import SeededSamples
from xtra_toolkit.registry import DATASETS, TRANSFORMS

IGNORED = 255  # class number of pixels without a class, as in MMSegmentation


@DATASETS.register_module()
class SegmentationFolder(SeededSamples, BaseDataset):
    """Read a folder of images and a folder of PNG maps with the same names, at any depth.

    A sample has ``img_path`` and ``seg_map_path``. The layout is MMSegmentation's::

        data_root/images/a.jpg        data_root/annotations/a.png
        data_root/images/more/b.png   data_root/annotations/more/b.png

    Args:
        data_root: The folder; ``~`` is the home folder.
        data_prefix: The two folders in it. Default: ``dict(img_path='images',
            seg_map_path='annotations')``.
        **kwargs: Arguments of MMPretrain's ``BaseDataset``, such as ``pipeline`` and
            ``metainfo=dict(classes=[...])``.

    Raises:
        ValueError: If there is no image, an image without a map, a map without an image, or two
            images of one name.
    """

    def __init__(self, data_root: str, data_prefix: dict | None = None, **kwargs: Any):
        prefix = data_prefix or dict(img_path="images", seg_map_path="annotations")
        root = os.path.expanduser(data_root)
        super().__init__(**{"ann_file": ""} | kwargs, data_root=root, data_prefix=prefix)

    def load_data_list(self) -> list[dict]:
        """Return a dictionary for each sample, sorted by name."""
        folders = self.data_prefix["img_path"], self.data_prefix["seg_map_path"]
        images, maps = _by_stem(folders[0], EXTENSIONS), _by_stem(folders[1], (".png",))
        for files, others, what, folder in (
            (images, maps, "segmentation map (.png)", folders[1]),
            (maps, images, "image", folders[0]),
        ):
            unpaired = sorted(files.keys() - others.keys())
            if unpaired:
                raise ValueError(
                    f"{len(unpaired)} of {len(files)} files have no {what} of the same name in "
                    f"{folder!r}; the first is {files[unpaired[0]]!r}."
                )
        if not images:
            raise ValueError(
                f"No images in {folders[0]!r}. Name your folder, with images/ and annotations/ "
                "in it, with --cfg-options train_dataloader.dataset.data_root=/path."
            )
        return [dict(img_path=images[stem], seg_map_path=maps[stem]) for stem in sorted(images)]


@TRANSFORMS.register_module()
class LoadSegMap(LoadAnnotations):
    """Load the segmentation map of a sample as ``gt_seg_map``, (H, W) uint8; 255 is no class.

    Pillow reads it, because OpenCV turns the numbers of an indexed PNG into its colours. The image
    may be resized before this transform but not cropped, since the map would not be cropped.

    Args:
        reduce_zero_label: Whether 0 means no class and 1 is the first class, as in ADE20K.

    Raises:
        ValueError: If the file cannot be read, is no 8-bit map of numbers, or differs from its
            image in size.
    """

    def __init__(self, reduce_zero_label: bool = False):
        super().__init__(
            with_bbox=False, with_label=False, with_seg=True, imdecode_backend="pillow"
        )
        self.reduce_zero_label = reduce_zero_label

    def _load_seg_map(self, results: dict) -> None:
        data = fileio.get(results["seg_map_path"], backend_args=self.backend_args)
        image = open_image(data, ("PNG",))  # MMCV would accept any format of Pillow
        refuse_larger(image.size[::-1], MAX_PIXELS)
        results["gt_seg_map"] = np.asarray(image).squeeze()

    def transform(self, results: dict) -> dict:
        """Add ``gt_seg_map`` to the sample."""
        path = results["seg_map_path"]
        try:
            seg_map = super().transform(results)["gt_seg_map"]
        except Exception as error:  # Pillow alone raises OSError, ValueError, SyntaxError, ...
            raise ValueError(
                f"Cannot read the segmentation map {path!r}: {type(error).__name__}: {error}."
            ) from error
        if seg_map.ndim != 2 or seg_map.dtype not in (np.uint8, bool):
            raise ValueError(
                f"The segmentation map {path!r} has the shape {seg_map.shape} and the type "
                f"{seg_map.dtype}; a map is one 8-bit class number a pixel, an indexed or grey PNG."
            )
        if seg_map.shape != tuple(results["ori_shape"]):
            raise ValueError(
                f"The segmentation map {path!r} has {seg_map.shape} pixels (height, width), its "
                f"image {results['img_path']!r} {tuple(results['ori_shape'])}."
            )
        seg_map = seg_map.astype(np.uint8)
        if self.reduce_zero_label:  # 0 - 1 is 255 in uint8
            seg_map = np.where(seg_map == IGNORED, IGNORED, seg_map - np.uint8(1)).astype(np.uint8)
        results["gt_seg_map"] = seg_map
        return results


@TRANSFORMS.register_module()
class RandomResizedCropWithSegMap(RandomResizedCrop):
    """MMPretrain's ``RandomResizedCrop``, which also crops ``gt_seg_map`` (nearest neighbour)."""

    def transform(self, results: dict) -> dict:
        """Crop and resize ``img`` and ``gt_seg_map``."""
        img, seg_map = results["img"], results["gt_seg_map"]
        if img.shape[:2] != seg_map.shape:
            raise ValueError(
                f"The image {results.get('img_path')!r} has {img.shape[:2]} pixels when it is "
                f"cropped and its segmentation map {seg_map.shape}: load both before resizing."
            )
        top, left, height, width = self.rand_crop_params(img)
        box, size = np.s_[top : top + height, left : left + width], tuple(self.scale[::-1])
        for key, mode in (("img", self.interpolation), ("gt_seg_map", "nearest")):
            results[key] = mmcv.imresize(
                results[key][box], size, interpolation=mode, backend=self.backend
            )
        results["img_shape"] = results["img"].shape[:2]
        return results


def _by_stem(folder: str, extensions: tuple[str, ...]) -> dict[str, str]:
    """Return the files below a folder by their relative path without the extension."""
    files: dict[str, str] = {}
    for path in sorted(Path(folder).rglob("*")):
        if path.suffix.lower() not in extensions:
            continue
        stem = str(path.relative_to(folder).with_suffix(""))
        if stem in files:
            raise ValueError(f"{files[stem]!r} and {str(path)!r} would share one segmentation map.")
        files[stem] = str(path)
    return files
