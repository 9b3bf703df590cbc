"""Files that are there whole or not at all, whatever stops the writing."""

import os
import shutil
from pathlib import Path

from mmengine.fileio import LocalBackend

from xtra_toolkit.utils.atomic import UNFINISHED, replacing


class AtomicBackend(LocalBackend):
    """MMEngine's local files; ``put`` replaces a file in one step once the new one is on disk.

    Writes beside the file, fsync, rename, fsync of the folder: after a kill or a loss of power
    the name stands for the old content or for the new one, never for half of it.
    """

    def put(self, obj: bytes | memoryview, filepath: str | Path) -> None:
        """Writes ``obj``; OSError with what was missing where it cannot, the old file kept."""
        path = Path(filepath)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with replacing(path, sync=True) as file:
                file.write(obj)
        except OSError as error:
            raise OSError(error.errno, _sentence(error, path, len(obj))) from error


def remove_unfinished(folder: Path) -> list[Path]:
    """Removes what a killed process left in ``folder``, sharded checkpoints in it included."""
    left = [*folder.glob(f"*{UNFINISHED}"), *folder.glob(f"*.pth/*{UNFINISHED}")]
    for path in left:
        path.unlink(missing_ok=True)
    return left


def _sentence(error: OSError, path: Path, needed: int) -> str:
    free = shutil.disk_usage(path.parent).free
    return (
        f"{path} could not be written: {os.strerror(error.errno)}. It needs {needed:,} bytes; "
        f"{path.parent} has {free:,} free. Nothing was replaced: earlier checkpoints are whole, "
        "and --resume goes on from the last. Make room, keep fewer "
        "(default_hooks.checkpoint.max_keep_ckpts; one more is needed while a new one is "
        "written), or write elsewhere (default_hooks.checkpoint.out_dir)."
    )
