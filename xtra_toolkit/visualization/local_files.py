"""MMEngine's local files, whose pictures are small and become sparser with age."""

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.visualization import LocalVisBackend
from PIL import Image

from xtra_toolkit.registry import VISBACKENDS

QUALITY = 80  # of a JPEG, as on a page of ``xtra report``


@VISBACKENDS.register_module()
class LocalFiles(LocalVisBackend):
    """Write pictures as JPEG, and keep the newest ones densely and older ones ever more sparsely.

    A picture is ``vis_data/vis_image/NAME_STEP.jpg`` in the folder of its start. The first and the
    newest picture of a name are always kept. A resumed run counts the pictures of the starts that
    it goes on from, and thins them too.

    Args:
        save_dir: MMEngine's.
        pictures: how many of each name are kept; at least 3.
        **kwargs: of MMEngine's ``LocalVisBackend``.

    Raises:
        ValueError: ``pictures`` is below 3.
    """

    def __init__(self, save_dir: str, pictures: int = 48, **kwargs: Any):
        if pictures < 3:
            raise ValueError(f"LocalFiles(pictures={pictures}) was given; it is at least 3")
        super().__init__(save_dir, **kwargs)
        self.pictures = pictures
        self.starts: list[Path] = []

    def add_config(self, config: Config, **kwargs: Any) -> None:
        """Record the config; find the starts that are resumed."""
        super().add_config(config, **kwargs)
        if config.get("resume"):
            self.starts = resumed_starts(Path(self._save_dir))

    def add_image(self, name: str, image: np.ndarray, step: int = 0, **kwargs: Any) -> None:
        """Record a picture, (height, width, 3) uint8 RGB, and remove what is too much."""
        folder = Path(self.experiment._img_save_dir)  # MMEngine makes it at the first use
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}_{step}.jpg").write_bytes(jpeg(image))
        found: dict[int, list[Path]] = {}
        for path in (p for start in [folder, *self.starts] for p in start.glob(f"{name}_*.*")):
            if number := re.fullmatch(rf"{re.escape(name)}_(\d+)", path.stem):
                found.setdefault(int(number[1]), []).append(path)
        for old in surplus(list(found), self.pictures):
            for path in found[old]:
                path.unlink(missing_ok=True)


def jpeg(image: np.ndarray) -> bytes:
    """Encode (height, width, 3) uint8 RGB."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return buffer.getvalue()


def surplus(steps: list[int], most: int) -> list[int]:
    """Choose the steps to drop, so that ``most`` are left.

    The gap between those that are left grows with their age. What is dropped depends on the steps
    alone, so a resumed run keeps to it.
    """
    kept, dropped = sorted(steps), []
    while len(kept) > most:

        def gap(i: int) -> float:
            return (kept[i + 1] - kept[i - 1]) / (kept[-1] - kept[i - 1])

        dropped.append(kept.pop(min(range(1, len(kept) - 1), key=gap)))
    return dropped


def resumed_starts(save_dir: Path) -> list[Path]:
    """The picture folders of the starts that a start, ``WORK_DIR/TIME/vis_data``, goes on from.

    They end with the newest one that trained and did not resume: what is older is another run.
    """
    found = []
    for start in sorted(save_dir.parents[1].glob("*/vis_data"), reverse=True):
        config = start / "config.py"
        if start.parent.name >= save_dir.parent.name or not config.is_file():
            continue
        found.append(start / "vis_image")
        resumes = re.search(r"^resume = (?!False|None)", config.read_text(), re.MULTILINE)
        if not resumes and (start / "scalars.json").exists():  # a test has no such file
            break
    return found
