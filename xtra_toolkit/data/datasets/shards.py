"""Tar shards, as webdataset writes them, read at any place: sample 7 does not wait for 0 to 6.

webdataset's own reader streams, and its order is that of its workers. Its indexed one, wids, goes
through each shard anew in each process. Here a list, written once, says where in which shard each
image lies. An image is one read of that place by a handle of its own, so processes share no file
position, and nothing is opened before its turn.
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
    """The images of a folder of tar shards, in the order of the list of ``xtra index --shards``.

    Only that list is needed at the start, mapped into memory as ``ImageFolder`` maps its own; to
    read needs no package. Its pipeline begins with ``ReadImage`` or ``LoadImage``. The shards lie
    on a disk or a mounted file server.

    Args:
        data_root: the folder; ``~`` is the home folder.
        with_label: whether to give the label that webdataset's ``.cls`` holds; the list has it
            after a space where written with ``--with-label``.
        ann_file: the list, below the folder or an absolute path.
        **kwargs: of ``ImageFolder``, among them ``pipeline``.

    Raises:
        ValueError: the list is absent, empty or none of shards.
        UnreadableImage: a ValueError; the shard is absent or cut short, or another file lies
            there than when it was listed.
    """

    def __init__(self, data_root: str = "", ann_file: str = "index.txt", **kwargs: Any):
        super().__init__(data_root=data_root, ann_file=ann_file, **kwargs)

    def get_data_info(self, idx: int) -> dict:
        """``img_path`` (shard!name), ``place`` (shard, name, offset, size), and the label."""
        info = super().get_data_info(idx)
        root = os.path.join(self.img_prefix, "")  # whose name may be like a shard's
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
        """The sample after its pipeline, which begins with ``img_bytes``."""
        info = self.get_data_info(idx)
        try:
            info["img_bytes"] = read(*info.pop("place"))
        except OSError as error:
            raise unreadable(info["img_path"], error) from error
        return self.pipeline(info)


def read(shard: str, name: str, offset: int, size: int) -> bytes:
    """The bytes of a file in a shard, once the header before them is seen to be of it.

    Raises:
        OSError: the shard is absent or cut short, or other files lie in it than were listed.
    """
    with open(shard, "rb") as file:
        file.seek(offset - tarfile.BLOCKSIZE)
        data = file.read(tarfile.BLOCKSIZE + size)
    if len(data) < tarfile.BLOCKSIZE + size:
        raise OSError("the shard ends before the image does")
    try:
        header = tarfile.TarInfo.frombuf(data[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape")
        elsewhere = len(name) > 100 or not name.isascii()  # such a name has a header of its own
        same = header.size == size and (elsewhere or header.name == name)
    except tarfile.TarError:  # no header stands there
        same = False
    if not same:
        raise OSError("the shard has changed: list it again with xtra index --shards --force")
    return data[tarfile.BLOCKSIZE :]


def listed(folder: Path, with_label: bool) -> Iterator[str]:
    """A line for each image in the tar files below a folder, at any depth, in their order.

    Files are grouped to samples by webdataset itself.

    Raises:
        ValueError: webdataset is absent; there is no image; a shard cannot be read, or a sample
            of it has several images or no label.
    """
    try:
        from webdataset.tariterators import group_by_keys
    except ImportError as error:
        raise ValueError(
            "To list shards needs the package webdataset, which is not installed: "
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
    """The regular files of a shard; ValueError where it ends otherwise than a tar file does."""
    for member in tar:
        if member.size < 0:  # tarfile would read backwards
            raise ValueError(f"the file {member.name!r} in it has a size of {member.size} bytes")
        if member.isreg():
            yield dict(fname=member.name, data=member, __url__="")
    tar.fileobj.seek(tar.offset)
    rest = tar.fileobj.read(tarfile.BLOCKSIZE)
    if any(rest) or 0 < len(rest) < tarfile.BLOCKSIZE:  # tarfile takes it for the end
        raise ValueError(
            f"no header of a file stands at byte {tar.offset:,}, where one must follow: the shard "
            "is cut off or damaged there"
        )


def _lines(tar: tarfile.TarFile, sample: dict, with_label: bool) -> list[str]:
    """Of a sample, suffix -> member, its image's place and label; none where it has no image."""
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
        given = tar.extractfile(members["cls"]).read().strip() if "cls" in members else b""
        if not given.isdigit():
            raise ValueError(f"the sample {sample['__key__']!r} has {given!r} for label (.cls)")
        label = f" {int(given)}"
    return [f"{image.name}@{image.offset_data}+{image.size}{label}" for image in images]
