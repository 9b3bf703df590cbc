"""Read single images from tar shards of webdataset, in any order.

The reader of webdataset streams the shards, in an order that depends on its workers. Its indexed
reader, wids, scans each shard again in each process. Here a list, written once, holds the shard and
the offset of each image. Each read opens the shard again, so that processes share no file position.
"""

import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from xtra_toolkit.data.datasets.image_folder import EXTENSIONS, ImageFolder
from xtra_toolkit.data.transforms.loading import unreadable
from xtra_toolkit.registry import DATASETS

PLACE = re.compile(r"(.*?\.tar)!(.*)@(\d+)\+(\d+)", re.DOTALL)  # shard!name@offset+size


@DATASETS.register_module()
class Shards(ImageFolder):
    """Give the images in tar shards, in the order of the list of ``xtra index --shards``.

    The list is mapped into memory, as in ``ImageFolder``. Reading needs no further package. The
    pipeline must begin with ``ReadImage`` or ``LoadImage``, and the shards must be on a disk or a
    mounted file server.

    Args:
        data_root: The folder. ``~`` is the home folder.
        ann_file: The list, as a path below the folder or an absolute path.
        **kwargs: Arguments of ``ImageFolder``, such as ``pipeline`` and ``with_label``: whether to
            give the label of webdataset's ``.cls``, which the list has after a space if it was
            written with ``--with-label``.

    Raises:
        ValueError: The list is absent, empty or not a list of shards.
        UnreadableImage: The shard is absent or truncated, or it has changed since it was listed.
            This is a ValueError.
    """

    def __init__(self, data_root: str = "", ann_file: str = "index.txt", **kwargs: Any):
        super().__init__(data_root=data_root, ann_file=ann_file, **kwargs)

    def get_data_info(self, idx: int) -> dict:
        """Return ``img_path`` (shard!name), ``place`` (shard, name, offset, size) and the label."""
        info = super().get_data_info(idx)
        root = os.path.join(self.img_prefix, "")  # the folder itself may be named like a shard
        found = PLACE.fullmatch(info["img_path"].removeprefix(root))
        if found is None:
            raise ValueError(
                f"Line {idx + 1} of {self.ann_file!r} names no place in a shard. Write the list "
                "with xtra index FOLDER --shards, and with --with-label for with_label=True only."
            )
        shard, name, offset, size = found.groups()
        shard = os.path.join(self.img_prefix, shard)
        return info | dict(img_path=f"{shard}!{name}", place=(shard, name, int(offset), int(size)))

    def prepare_data(self, idx: int) -> Any:
        """Read ``img_bytes`` of a sample and run the pipeline on it."""
        info = self.get_data_info(idx)
        try:
            info["img_bytes"] = read(*info.pop("place"))
        except OSError as error:
            raise unreadable(info["img_path"], error) from error
        return self.pipeline(info)


def read(shard: str, name: str, offset: int, size: int) -> bytes:
    """Read a file in a shard, and check the tar header before it.

    Raises:
        OSError: The shard is absent or truncated, or it has changed since it was listed.
    """
    with open(shard, "rb") as file:
        file.seek(offset - tarfile.BLOCKSIZE)
        data = file.read(tarfile.BLOCKSIZE + size)
    if len(data) < tarfile.BLOCKSIZE + size:
        raise OSError("the shard ends before the image does")
    try:
        header = tarfile.TarInfo.frombuf(data[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape")
        extended = len(name) > 100 or not name.isascii()  # such names are in an extended header
        same = header.size == size and (extended or header.name == name)
    except tarfile.TarError:  # there is no header
        same = False
    if not same:
        raise OSError("the shard has changed: list it again with xtra index --shards --force")
    return data[tarfile.BLOCKSIZE :]


def listed(folder: Path, with_label: bool) -> Iterator[str]:
    """Iterate over the lines of the list, one for each image in the tar files below a folder.

    webdataset itself groups the files to samples.

    Raises:
        ValueError: webdataset is not installed, there is no image, a shard cannot be read, or a
            sample has several images or no label.
    """
    try:
        from webdataset.tariterators import group_by_keys
    except ImportError as error:
        raise ValueError(
            "Listing shards needs the package webdataset, which is not installed: "
            "pip install xtra_toolkit[shards]"
        ) from error
    shards, images = sorted(folder.rglob("*.tar")), 0
    for shard in shards:
        place = str(shard.relative_to(folder))
        try:
            if ".tar!" in place:
                raise ValueError("its name has '.tar!', which ends a shard's name in the list")
            with tarfile.open(shard, "r:") as tar:
                for sample in group_by_keys(_files(tar)):
                    for line in _lines(tar, sample, with_label):
                        images += 1
                        yield f"{place}!{line}"
        except (OSError, tarfile.TarError, ValueError) as error:
            cause = getattr(error, "strerror", None) or error.args[0]
            raise ValueError(f"Cannot list the shard {str(shard)!r}: {cause}") from error
    if not images:
        raise ValueError(
            f"No images in the {len(shards)} tar files below {str(folder)!r}. Write shards with "
            "webdataset.ShardWriter, an image file and its label (jpg=..., cls=...) a sample."
        )


def _files(tar: tarfile.TarFile) -> Iterator[dict]:
    """Iterate over the regular files of a shard; raise a ValueError if it is truncated."""
    for member in tar:
        if member.size < 0:  # tarfile would read backwards
            raise ValueError(f"the file {member.name!r} in it has a size of {member.size} bytes")
        if member.isreg():
            yield dict(fname=member.name, data=member, __url__="")
    tar.fileobj.seek(tar.offset)
    rest = tar.fileobj.read(tarfile.BLOCKSIZE)
    if any(rest) or 0 < len(rest) < tarfile.BLOCKSIZE:  # tarfile would silently stop here
        raise ValueError(
            f"no header of a file stands at byte {tar.offset:,}, where one must follow: the shard "
            "is cut off or damaged there"
        )


def _lines(tar: tarfile.TarFile, sample: dict, with_label: bool) -> list[str]:
    """Return the place and label of the image of a sample; no line if it has no image."""
    members = {key: member for key, member in sample.items() if not key.startswith("__")}
    images = [members[key] for key in members if f".{key}".endswith(EXTENSIONS)]
    if sparse := [image.name for image in images if image.issparse()]:
        raise ValueError(
            f"{sparse[0]!r} in it is a sparse file, which has no place to be read from: write the "
            "shard without tar's --sparse"
        )
    if len(images) > 1:
        raise ValueError(f"the sample {sample['__key__']!r} has {len(images)} images, not one")
    label = ""
    if images and with_label:
        content = tar.extractfile(members["cls"]).read().strip() if "cls" in members else b""
        if not content.isdigit():
            raise ValueError(f"the sample {sample['__key__']!r} has {content!r} for label (.cls)")
        label = f" {int(content)}"
    return [f"{image.name}@{image.offset_data}+{image.size}{label}" for image in images]
