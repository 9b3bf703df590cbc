"""Find the checkpoint from which a work folder resumes.

It is the one that the file ``last_checkpoint`` names, or else the newest intact one.
``last_checkpoint`` names a file relative to its folder, so that a folder may be moved or copied.
"""

import os.path
import re
from pathlib import Path
from pickle import UnpicklingError
from zipfile import is_zipfile

import torch

from xtra_toolkit.weights.read import damage

POINTER = "last_checkpoint"


def named_in(work_dir: str | Path) -> str:
    """Return the name in ``last_checkpoint``, or an empty string if there is none."""
    pointer = Path(work_dir, POINTER)
    return pointer.read_bytes().decode(errors="replace").strip() if pointer.is_file() else ""


def relative(checkpoint: str | Path, work_dir: str | Path) -> str:
    """Return the name for ``last_checkpoint``; files of other folders keep their path."""
    path = Path(checkpoint)
    return path.name if path.parent == Path(work_dir) else str(checkpoint)


def unfit(checkpoint: Path) -> str | None:
    """Return why a run cannot resume from a checkpoint, or None if it can.

    A folder is a sharded checkpoint. A file with objects that torch refuses to load counts as fit,
    since the message of the loader explains more.
    """
    path = Path(checkpoint)
    files = [path] if os.path.isfile(path) else sorted(path.glob("*")) if path.is_dir() else []
    if not files:
        return "is missing"
    for file in files:
        if not is_zipfile(file):
            return "is cut off or damaged"
        if problem := damage(file):
            return f"is damaged ({problem})"
    return None if path.is_dir() else _unfit_content(path)


def _unfit_content(path: Path) -> str | None:
    try:
        content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except UnpicklingError:
        return None
    except Exception as error:  # a damaged table of contents raises errors of many classes
        return f"is damaged ({type(error).__name__})"
    meta = content.get("meta") if isinstance(content, dict) else None
    whole = isinstance(meta, dict) and {"epoch", "iter"} <= meta.keys()
    return None if whole else "has no meta, so it holds weights but no state of a training"


def newest(work_dir: Path, folder: Path, pattern: str) -> tuple[Path | None, list[str]]:
    """Find the checkpoint from which ``work_dir`` resumes.

    Args:
        work_dir: The folder that holds ``last_checkpoint``.
        folder: The folder that holds the checkpoints of this run, most often ``work_dir``.
        pattern: Glob pattern of the names of checkpoints.

    Returns:
        The checkpoint, or None if there is none; and a sentence for each one that was skipped.
    """
    named, skipped = named_in(work_dir), []
    own = sorted(folder.glob(pattern), key=lambda path: _numbers(path.name), reverse=True)
    first = [folder / os.path.basename(named)] if named else []
    elsewhere = [Path(named)] if os.path.isabs(named) else []
    for path in dict.fromkeys([*first, *own, *elsewhere]):
        reason = unfit(path)
        if reason is None:
            return path, skipped
        skipped.append(f"{path} {reason}")
    return None, skipped


def _numbers(name: str) -> list[int]:
    """Return the numbers in a name, as a sort key: ``epoch_2_iter_13`` comes after ``epoch_2``."""
    return [int(number) for number in re.findall(r"\d+", name)]
