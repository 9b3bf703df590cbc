"""Write a file so that it is there whole or not at all, and never through somebody's link.

Every file that this package replaces is written by :func:`replacing`.
"""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

UNFINISHED = ".unfinished"  # ends the names of files that are being written


@contextmanager
def replacing(path: str | Path, sync: bool = False) -> Iterator[BinaryIO]:
    """Open a new file beside ``path``, which takes its name when the block ends.

    After an error in the block the new file is removed and ``path`` is as it was. The new file has
    a random name and is created exclusively, so that no link which somebody planted beside ``path``
    leads the writing elsewhere; a link at ``path`` itself is replaced, not followed.

    Args:
        path: the file to write; its folder must exist.
        sync: whether the file and its new name are on disk (fsync) when the block has ended, so
            that they survive a loss of power.

    Yields:
        The new file, open for writing bytes. A writer that takes a name and no file may write to
        its ``name``.

    Raises:
        OSError: the file cannot be created, written or renamed.
    """
    path = Path(path)
    part = path.with_name(f".{secrets.token_hex(8)}.{path.name}{UNFINISHED}")
    # "x" is O_CREAT | O_EXCL: it fails where any file or link has the name
    with open(part, "xb", opener=_without_following) as file:
        try:
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
            os.replace(part, path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    if sync:
        _sync_folder(path.parent)


def _without_following(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)  # less the umask, as open() creates files


def _sync_folder(folder: Path) -> None:
    """Bring the names of a folder to the disk: a rename is there once its folder is."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
