"""Check that a work folder is free, and find what its run was trained with."""

from collections.abc import Iterator
from pathlib import Path

from mmengine.config import Config

from xtra_toolkit.utils.config_text import flatten
from xtra_toolkit.utils.newest_checkpoint import POINTER

# of these a checkpoint holds the state, or depends on them; a resumed run keeps them
KEPT = ("model", "optim_wrapper", "param_scheduler", "data_preprocessor", "randomness")
KEPT += ("train_dataloader.dataset", "train_cfg.global_batch")


def refuse_used(folder: Path) -> None:
    """Raise ValueError where a folder holds checkpoints already."""
    found = checkpoints(folder)
    if found:
        raise ValueError(
            f"{folder} already holds a run, with {len(found)} checkpoint(s) up to "
            f"{found[-1].name}. Add --resume to go on with it, --overwrite to remove its "
            "checkpoints and start anew, or --out with another folder."
        )


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, the newest last."""
    found = [path for path in folder.glob("*.pth") if path.is_file()]
    return sorted(found, key=lambda path: path.stat().st_mtime)


def remove_run(folder: Path) -> None:
    """Remove the checkpoints of a folder, and the file that names the last one."""
    for path in [*checkpoints(folder), folder / POINTER]:
        path.unlink(missing_ok=True)


def keep_resumed(new: Config, former: Config) -> Iterator[str]:
    """Give a config what the run that it resumes was trained with, and say what differs.

    Args:
        new: The config that was asked for; it is changed.
        former: That of the run so far.

    Yields:
        A sentence for each key of :data:`KEPT` that differs.
    """
    before, after = flatten(former.to_dict()), flatten(new.to_dict())
    for key in sorted(before.keys() | after.keys()):
        if not _kept(key) or before.get(key) == after.get(key):
            continue
        yield (
            f"{key}: {before.get(key, 'absent')} holds, with which the run was begun, and not "
            f"{after.get(key, 'absent')}"
        )
    for key in KEPT:
        *path, last = key.split(".")
        source, target = former, new
        for part in path:
            source, target = source[part], target[part]
        if last in source:
            target.pop(last, None)
            target[last] = source[last]


def _kept(key: str) -> bool:
    return any(key == part or key.startswith(f"{part}.") for part in KEPT)
