"""Write a file as a whole or not at all, and without following a link.

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
    """Open a new file beside ``path``, which is renamed to ``path`` when the block ends.

    After an error in the block the new file is removed and ``path`` is unchanged. The new file has
    a random name and is created exclusively, so that a link that another user has placed beside
    ``path`` cannot redirect the output. A link at ``path`` itself is replaced, not followed.

    Args:
        path: The file to write. Its folder must exist.
        sync: Whether the file and its new name are on disk (fsync) when the block has ended, so
            that they survive a loss of power.

    Yields:
        The new file, open for writing bytes. A library that takes a file name may write to its
        ``name``.

    Raises:
        OSError: The file cannot be created, written or renamed.
    """
    path = Path(path)
    part = path.with_name(f".{secrets.token_hex(8)}.{path.name}{UNFINISHED}")
    # "x" is O_CREAT | O_EXCL: it fails if a file or link of this name exists
    with open(part, "xb", opener=_open_without_following) as file:
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


def _open_without_following(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)  # minus the umask, as with open()


def _sync_folder(folder: Path) -> None:
    """Write the names in a folder to the disk, so that a rename survives a loss of power."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
