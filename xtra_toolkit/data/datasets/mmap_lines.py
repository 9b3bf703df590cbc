"""Map the lines of a text file into memory, so that many processes share one copy of them."""

from pathlib import Path

import numpy as np

BLOCK = 1 << 22  # number of bytes searched at a time


def mapped(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the bytes of the file, uint8, and the end of each line that is not empty, int64.

    Raises:
        ValueError: The file is absent or has no line.
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
    ends = np.concatenate([*ends, [len(data)]])  # the last line may have no line break
    return data, ends[np.diff(ends, prepend=0) > 1]


def line(data: np.ndarray, ends: np.ndarray, index: int) -> str:
    """Return a line by its number, which may be negative; bytes that are not UTF-8 survive."""
    start = ends[index - 1] if index % len(ends) else 0
    return data[start : ends[index]].tobytes().decode(errors="surrogateescape").strip("\r\n")
