"""A text file's lines, mapped into memory: many processes hold one copy of millions of them."""

from pathlib import Path

import numpy as np

BLOCK = 1 << 22  # bytes looked through at a time


def mapped(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """The bytes of the file, uint8, and where each line that is not empty ends, int64.

    Raises:
        ValueError: the file is absent or has no line.
    """
    try:
        data = np.memmap(path, np.uint8, "r")
    except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
        raise ValueError(
            f"No list of images can be read from {str(path)!r} ({error}). Write one with "
            "xtra index FOLDER, or with xtra index FOLDER --shards where it holds tar shards."
        ) from error
    blocks = range(0, len(data), BLOCK)
    ends = [np.flatnonzero(data[at : at + BLOCK] == ord("\n")) + (at + 1) for at in blocks]
    ends = np.concatenate([*ends, [len(data)]])  # the last line may lack its end
    return data, ends[np.diff(ends, prepend=0) > 1]


def line(data: np.ndarray, ends: np.ndarray, index: int) -> str:
    """The line of that number, negative ones from the end; other bytes than UTF-8 survive."""
    start = ends[index - 1] if index % len(ends) else 0
    return data[start : ends[index]].tobytes().decode(errors="surrogateescape").strip("\r\n")
