"""A visualizer back end that writes small pictures to local files and thins out old ones."""

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.visualization import LocalVisBackend
from PIL import Image

from xtra_toolkit.registry import VISBACKENDS

QUALITY = 80  # JPEG quality, the same as on a page of xtra report


@VISBACKENDS.register_module()
class LocalFiles(LocalVisBackend):
    """Write pictures as JPEG, and keep fewer of them the older they are.

    A picture is written to ``vis_data/vis_image/NAME_STEP.jpg`` in the folder of the current start
    of the run. The first and the newest picture of each name are always kept. A resumed run also
    counts the pictures of the starts that it continues, and thins them out too.

    Args:
        save_dir: Folder to write to, set by MMEngine.
        pictures: Number of pictures to keep of each name, at least 3.
        **kwargs: Arguments of MMEngine's ``LocalVisBackend``.

    Raises:
        ValueError: If ``pictures`` is below 3.
    """

    def __init__(self, save_dir: str, pictures: int = 48, **kwargs: Any):
        if pictures < 3:
            raise ValueError(f"LocalFiles(pictures={pictures}) was given; it must be at least 3")
        super().__init__(save_dir, **kwargs)
        self.pictures = pictures
        self.starts: list[Path] = []

    def add_config(self, config: Config, **kwargs: Any) -> None:
        """Record the config, and find the earlier starts if this one resumes a run."""
        super().add_config(config, **kwargs)
        if config.get("resume"):
            self.starts = resumed_starts(Path(self._save_dir))

    def add_image(self, name: str, image: np.ndarray, step: int = 0, **kwargs: Any) -> None:
        """Write a picture, (height, width, 3) uint8 RGB, and delete those that are too many."""
        folder = Path(self.experiment._img_save_dir)  # MMEngine creates it at its first picture
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}_{step}.jpg").write_bytes(jpeg(image))
        paths_by_step: dict[int, list[Path]] = {}
        for path in (p for start in [folder, *self.starts] for p in start.glob(f"{name}_*.*")):
            if number := re.fullmatch(rf"{re.escape(name)}_(\d+)", path.stem):
                paths_by_step.setdefault(int(number[1]), []).append(path)
        for old in surplus(list(paths_by_step), self.pictures):
            for path in paths_by_step[old]:
                path.unlink(missing_ok=True)


def jpeg(image: np.ndarray) -> bytes:
    """Encode an image, (height, width, 3) uint8 RGB, as JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return buffer.getvalue()


def surplus(steps: list[int], most: int) -> list[int]:
    """Choose the steps to drop so that ``most`` are left.

    The gaps between the remaining steps grow with their age. The choice depends on the steps
    alone, so a resumed run makes the same one.
    """
    kept, dropped = sorted(steps), []
    while len(kept) > most:

        def gap(i: int) -> float:
            return (kept[i + 1] - kept[i - 1]) / (kept[-1] - kept[i - 1])

        dropped.append(kept.pop(min(range(1, len(kept) - 1), key=gap)))
    return dropped


def resumed_starts(save_dir: Path) -> list[Path]:
    """Return the picture folders of the starts that a resumed start continues, newest first.

    The last of them is the newest start that trained without resuming; older ones belong to
    another run.

    Args:
        save_dir: Folder of the resumed start, ``WORK_DIR/TIME/vis_data``.
    """
    folders = []
    for start in sorted(save_dir.parents[1].glob("*/vis_data"), reverse=True):
        config = start / "config.py"
        if start.parent.name >= save_dir.parent.name or not config.is_file():
            continue
        folders.append(start / "vis_image")
        resumes = re.search(r"^resume = (?!False|None)", config.read_text(), re.MULTILINE)
        if not resumes and (start / "scalars.json").exists():  # mim test writes no such file
            break
    return folders
