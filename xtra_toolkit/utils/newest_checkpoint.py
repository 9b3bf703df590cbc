"""The checkpoint from which a work folder goes on: the one that is named, or the newest whole one.

``last_checkpoint`` names a file relative to its folder, so that a folder may be moved or copied.
"""

import os.path
import re
from collections.abc import Iterable
from pathlib import Path
from pickle import UnpicklingError
from zipfile import is_zipfile

import torch

from xtra_toolkit.weights.read import damage

POINTER = "last_checkpoint"


def named_in(work_dir: str | Path) -> str:
    """Return what ``last_checkpoint`` names, an empty text if it names nothing."""
    pointer = Path(work_dir, POINTER)
    return pointer.read_bytes().decode(errors="replace").strip() if pointer.is_file() else ""


def relative(checkpoint: str | Path, work_dir: str | Path) -> str:
    """Return what ``last_checkpoint`` is to name; files of other folders keep their path."""
    path = Path(checkpoint)
    return path.name if path.parent == Path(work_dir) else str(checkpoint)


def unfit(checkpoint: Path) -> str | None:
    """Say why a run cannot resume from a checkpoint; None if it can.

    A folder is a sharded checkpoint. A file whose objects torch refuses to load counts as fit, as
    the loader's message on it says more.
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
    except Exception as error:  # the table of contents is damaged: errors of many classes
        return f"is damaged ({type(error).__name__})"
    meta = content.get("meta") if isinstance(content, dict) else None
    whole = isinstance(meta, dict) and {"epoch", "iter"} <= meta.keys()
    return None if whole else "has no meta, so it holds weights and no state of a training"


def newest(work_dir: Path, folder: Path, pattern: str) -> tuple[Path | None, list[str]]:
    """Find the checkpoint from which ``work_dir`` goes on.

    Args:
        work_dir: the folder that holds ``last_checkpoint``.
        folder: the folder that holds this run's checkpoints, most often ``work_dir``.
        pattern: matches the names of checkpoints.

    Returns:
        The checkpoint, None if there is none, and a sentence for each that was passed over.
    """
    named, passed = named_in(work_dir), []
    own = sorted(folder.glob(pattern), key=lambda path: _numbers(path.name), reverse=True)
    first = [folder / os.path.basename(named)] if named else []
    elsewhere = [Path(named)] if os.path.isabs(named) else []
    for path in _once([*first, *own, *elsewhere]):
        reason = unfit(path)
        if reason is None:
            return path, passed
        passed.append(f"{path} {reason}")
    return None, passed


def _numbers(name: str) -> list[int]:
    """The epochs and iterations in a name; ``epoch_2_iter_13`` comes after ``epoch_2``."""
    return [int(number) for number in re.findall(r"\d+", name)]


def _once(paths: Iterable[Path]) -> list[Path]:
    return list(dict.fromkeys(paths))
