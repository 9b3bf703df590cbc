"""Any folder of images."""

import os.path
from typing import Any

from mmpretrain.datasets import CustomDataset

from xtra_toolkit.data.seeded import SeededSamples
from xtra_toolkit.registry import DATASETS

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


@DATASETS.register_module()
class ImageFolder(SeededSamples, CustomDataset):
    """The images below a folder, at any depth, in the order of their paths.

    Args:
        data_root: the folder; ``~`` is the home folder.
        with_label: whether the folder's sub-folders are classes, in alphabetical order.
        extensions: of the files taken, in either case.
        **kwargs: of MMPretrain's ``CustomDataset``, among them ``ann_file`` and ``pipeline``.

    Raises:
        ValueError: the folder is absent or holds no image.
    """

    def __init__(
        self,
        data_root: str = "",
        with_label: bool = False,
        extensions: tuple[str, ...] = EXTENSIONS,
        **kwargs: Any,
    ):
        super().__init__(
            data_root=os.path.expanduser(data_root),
            with_label=with_label,
            extensions=extensions,
            **kwargs,
        )

    def _find_samples(self) -> list:
        try:
            return super()._find_samples()
        except (OSError, RuntimeError) as error:  # absent, or empty
            below = "a sub-folder of " if self.with_label else ""
            raise ValueError(
                f"No images in {below}{os.path.abspath(self.img_prefix)!r}. Files ending in "
                f"{', '.join(sorted(self.extensions))} are looked for, at any depth. Name your "
                "folder with --cfg-options train_dataloader.dataset.data_root=/path/to/images."
            ) from error
