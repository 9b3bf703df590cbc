"""Let MMEngine write a file as a whole or not at all, as a file backend."""

import os
import shutil
from pathlib import Path

from mmengine.fileio import LocalBackend

from xtra_toolkit.utils.atomic import UNFINISHED, replacing


class AtomicBackend(LocalBackend):
    """Extend MMEngine's backend for local files by a ``put`` that replaces a file in one step.

    ``put`` writes a file beside the old one, syncs it to the disk, renames it and syncs the folder.
    After a kill or a loss of power the file has the old content or the new one, never a part of it.
    """

    def put(self, obj: bytes | memoryview, filepath: str | Path) -> None:
        """Write ``obj`` to a file.

        Raises:
            OSError: The file cannot be written; the old file is kept.
        """
        path = Path(filepath)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with replacing(path, sync=True) as file:
                file.write(obj)
        except OSError as error:
            raise OSError(error.errno, _error_message(error, path, len(obj))) from error


def remove_unfinished(folder: Path) -> list[Path]:
    """Remove the unfinished files of killed processes in a folder and in its sharded checkpoints.

    Returns:
        The removed files.
    """
    unfinished = [*folder.glob(f"*{UNFINISHED}"), *folder.glob(f"*.pth/*{UNFINISHED}")]
    for path in unfinished:
        path.unlink(missing_ok=True)
    return unfinished


def _error_message(error: OSError, path: Path, needed: int) -> str:
    free = shutil.disk_usage(path.parent).free
    return (
        f"{path} could not be written: {os.strerror(error.errno)}. It needs {needed:,} bytes; "
        f"{path.parent} has {free:,} free. Nothing was replaced: earlier checkpoints are whole, "
        "and --resume goes on from the last. Make room, keep fewer "
        "(default_hooks.checkpoint.max_keep_ckpts; one more is needed while a new one is "
        "written), or write elsewhere (default_hooks.checkpoint.out_dir)."
    )
