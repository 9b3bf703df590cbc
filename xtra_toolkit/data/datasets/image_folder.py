"""Read any folder of images, found by a search or named in a list."""

import errno
import os
import stat
from typing import Any

from mmpretrain.datasets import CustomDataset

from xtra_toolkit.data.datasets.mmap_lines import line, mapped
from xtra_toolkit.data.datasets.skip_bad_images import SkipsBadImages
from xtra_toolkit.data.seeding import SeededSamples
from xtra_toolkit.registry import DATASETS

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


@DATASETS.register_module()
class ImageFolder(SeededSamples, SkipsBadImages, CustomDataset):
    """Give the images below a folder, at any depth, in the order of their paths.

    For millions of images, write a list once by ``xtra index FOLDER``. With ``ann_file`` no process
    searches the folder: all of them map the list into memory.

    Args:
        data_root: The folder. ``~`` is the home folder.
        with_label: Whether the sub-folders are classes, in alphabetical order.
        extensions: Extensions of image files, in upper or lower case.
        ann_file: A list with the path of an image below the folder on each line, and its label
            after a space if ``with_label``.
        **kwargs: Arguments of MMPretrain's ``CustomDataset``, such as ``pipeline``.

    Raises:
        ValueError: The folder or the list is absent or holds no image, or a link in the folder
            leads to a folder that it lies in.
    """

    def __init__(
        self,
        data_root: str = "",
        with_label: bool = False,
        extensions: tuple[str, ...] = EXTENSIONS,
        ann_file: str = "",
        **kwargs: Any,
    ):
        super().__init__(
            data_root=os.path.expanduser(data_root),
            with_label=with_label,
            extensions=extensions,
            ann_file=ann_file,
            **kwargs,
        )

    def full_init(self) -> None:
        """Search for the images, or map their list into memory."""
        if not self.ann_file or self._fully_initialized:
            return super().full_init()
        self.data_bytes, self.data_address = mapped(self.ann_file)
        self._fully_initialized = True
        if self._indices is not None:
            self.get_subset_(self._indices)

    def get_data_info(self, idx: int) -> dict:
        """Return ``img_path``, ``sample_idx`` and, with labels, ``gt_label``."""
        if not self.ann_file:
            return super().get_data_info(idx)
        if not self._fully_initialized:
            self.full_init()
        text = line(self.data_bytes, self.data_address, idx)
        info = dict(sample_idx=idx % len(self))
        if self.with_label:
            text, _, label = text.rpartition(" ")
            info["gt_label"] = self._label(label, idx)
        return dict(img_path=os.path.join(self.img_prefix, text), **info)

    def _label(self, label: str, idx: int) -> int:
        if not label.isdecimal():
            raise ValueError(
                f"Line {idx + 1} of {self.ann_file!r} ends in {label!r}, which is no label. Write "
                "the list with xtra index FOLDER --with-label, or set with_label=False."
            )
        return int(label)

    def _find_samples(self) -> list:
        try:
            if os.path.isdir(self.img_prefix):  # other file backends are not searched
                refuse_loops(self.img_prefix)
            return super()._find_samples()
        except (OSError, RuntimeError) as error:  # absent, or empty
            raise ValueError(
                f"{self._nothing_found()} Name your folder with --cfg-options "
                "train_dataloader.dataset.data_root=/path/to/images. MMEngine removes spaces from "
                "--cfg-options; write a path with spaces into the config."
            ) from error

    def _nothing_found(self) -> str:
        """Return a sentence that says why no image was found."""
        folder = os.path.abspath(self.img_prefix)
        if not os.path.isdir(folder):
            return f"There is no folder {folder!r}."
        if self.with_label and not any(entry.is_dir() for entry in os.scandir(folder)):
            return (
                f"{folder!r} has no sub-folders, and labels are asked for: put the images of each "
                "class into a sub-folder of its name, or set with_label=False."
            )
        below = "a sub-folder of " if self.with_label else ""
        return (
            f"No images in {below}{folder!r}. Files ending in "
            f"{', '.join(sorted(self.extensions))} are looked for, at any depth."
        )


def refuse_loops(root: str) -> None:
    """Refuse a folder with a link to a folder above it, in which a search would not end.

    Raises:
        ValueError: There is such a link; the message names it.
    """
    top = os.stat(root)
    folders = [(root, {(top.st_dev, top.st_ino)})]
    while folders:
        folder, above = folders.pop()
        for entry in os.scandir(folder):
            link = entry.is_symlink()
            if not (link or entry.is_dir()):
                continue
            try:
                found = os.stat(entry.path)
                place = found.st_dev, found.st_ino
            except OSError as error:  # a dangling link is no image
                if error.errno != errno.ELOOP:
                    continue
                place = None
            if link and (place is None or place in above):
                raise ValueError(
                    f"{entry.path!r} is a link to {os.readlink(entry.path)!r}, which leads back to "
                    "where it lies: images would be looked for without end. Remove the link."
                )
            if stat.S_ISDIR(found.st_mode):
                folders.append((entry.path, above | {place}))
