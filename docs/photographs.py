"""The pictures of the README: XTRA and MAE on a few photographs, half an hour on a CPU.

    apt-get install mate-backgrounds lomiri-wallpapers-16.04    # what is trained on
    python docs/photographs.py

Writes work_dirs/photographs, runs ``mim train`` twice, and ``xtra report`` on both.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data
from sklearn.datasets import load_sample_images

CONFIGS = Path(__file__).parents[1] / "mmconfigs" / "demo"
WORK = Path("work_dirs/photographs")
WALLPAPERS = Path("/usr/share/backgrounds")
SIDE = 384  # of the shorter edge: crops are of 64 px


def write(folder: Path, name: str, image: Image.Image) -> None:
    """A photograph, shrunken."""
    folder.mkdir(parents=True, exist_ok=True)
    image = image.convert("RGB")
    scale = SIDE / min(image.size)
    size = [max(SIDE, round(side * scale)) for side in image.size]
    image.resize(size, Image.Resampling.BICUBIC).save(folder / f"{name}.jpg", quality=95)


def main() -> None:
    """Photographs, runs, page."""
    found = sorted(p for p in WALLPAPERS.rglob("*") if p.suffix in (".jpg", ".png"))
    if len(found) < 32:
        sys.exit(f"{len(found)} images below {WALLPAPERS}; the first line of this file's command")
    for path in found:
        write(WORK / "train", path.stem, Image.open(path, formats=["JPEG", "PNG"]))
    samples = [getattr(data, name)() for name in ("astronaut", "coffee", "chelsea", "rocket")]
    for i, pixels in enumerate([*samples, *load_sample_images().images]):
        write(WORK / "val", str(i), Image.fromarray(np.asarray(pixels)))
    commands = Path(sys.executable).parent
    for config in ("xtra_photographs", "mae_photographs"):
        train = [commands / "mim", "train", "mmpretrain", CONFIGS / f"{config}.py"]
        subprocess.run([*train, "--work-dir", WORK / config, *sys.argv[1:]], check=True)
    runs = [WORK / config for config in ("xtra_photographs", "mae_photographs")]
    report = [commands / "xtra", "report", *runs, "--html", WORK / "report.html"]
    subprocess.run(report, check=True)


if __name__ == "__main__":
    main()
