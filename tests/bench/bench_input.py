"""What an image costs the training pipeline on one core: ours, MMPretrain's and torchvision's.

    python tests/bench/bench_input.py
    python tests/bench/bench_input.py --json input.json

An image is read, decoded, cropped at random to 256 px, flipped and collated into a batch of uint8.
MMPretrain's pipeline is its published one for MAE; all draw crops from that one's range. The sides
take turns, each on the same files. Photographs: six that scikit-learn and scikit-image ship, at
500×375 and as mirrored mosaics of 2000×1500, JPEG of quality 90, 4:2:0. One thread; processor time.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import mmpretrain
import numpy as np
import torch
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.registry import FUNCTIONS, init_default_scope
from PIL import Image
from skimage import data
from sklearn.datasets import load_sample_images
from spread import cell, row
from torchvision.transforms import v2

from xtra_toolkit.data.image_reading import decoding

SIZE = 256
GPUS = (500, 1000, 2000, 4000)  # images/s
OURS = Path(__file__).parents[2] / "mmconfigs" / "_base_" / "images_256.py"
MAE = Path(mmpretrain.__file__).parent / ".mim/configs/_base_/datasets/imagenet_bs512_mae.py"
Side = Callable[[list[str]], object]  # paths -> a batch


# ---- Photographs --------------------------------------------------------------------------------


def write(folder: Path) -> dict[str, list[str]]:
    """Write the photographs; return the paths of each kind."""
    kinds = {"500×375": small, "2000×1500": mosaic}
    paths = {kind: [] for kind in kinds}
    names = "astronaut", "coffee", "chelsea", "rocket"
    photographs = [*load_sample_images().images, *(getattr(data, name)() for name in names)]
    for i, photograph in enumerate(photographs):
        for kind, make in kinds.items():
            path = folder / f"{kind}-{i}.jpg"
            Image.fromarray(make(photograph)).save(path, quality=90, subsampling="4:2:0")
            paths[kind].append(str(path))
    return paths


def small(pixels: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).resize((500, 375), Image.Resampling.BICUBIC))


def mosaic(pixels: np.ndarray) -> np.ndarray:
    """Return a mosaic whose detail is as fine as that of the photograph."""
    pixels = np.concatenate([pixels, pixels[:, ::-1]], axis=1)
    pixels = np.concatenate([pixels, pixels[::-1]])
    return np.tile(pixels, (4, 4, 1))[:1500, :2000]


# ---- The sides ----------------------------------------------------------------------------------


def openmmlab(config: Path, steps: Callable[[Config], list[dict]], crop: dict) -> Side:
    """Build the pipeline of a config with another size and range of the crop."""
    config = Config.fromfile(config)
    pipeline = steps(config)
    pipeline[1].update(scale=SIZE, **crop)
    run, collate = Compose(pipeline), FUNCTIONS.get(config.train_dataloader.collate_fn.type)
    return lambda paths: collate([run(dict(img_path=path)) for path in paths])


def torchvisions(crop: dict) -> Side:
    run = v2.Compose(
        [
            v2.RandomResizedCrop(
                SIZE,
                crop["crop_ratio_range"],
                crop["aspect_ratio_range"],
                v2.InterpolationMode.BICUBIC,
            ),
            v2.RandomHorizontalFlip(),
            v2.PILToTensor(),
        ]
    )
    return lambda paths: torch.stack([run(Image.open(path).convert("RGB")) for path in paths])


@contextmanager
def without_simplejpeg() -> Iterator[None]:
    held, decoding.simplejpeg = decoding.simplejpeg, None
    try:
        yield
    finally:
        decoding.simplejpeg = held


def sides() -> dict[str, Side]:
    crop = dict(crop_ratio_range=(0.2, 1.0), aspect_ratio_range=(3 / 4, 4 / 3))  # MAE's
    ours = openmmlab(OURS, lambda config: config.train_dataloader.dataset.pipeline, crop)

    def plain(paths: list[str]) -> object:
        with without_simplejpeg():
            return ours(paths)

    def decode(paths: list[str]) -> object:
        return [decoding.Jpeg.of(Path(path).read_bytes()).decode() for path in paths]

    return {
        "torchvision": torchvisions(crop),
        "MMPretrain": openmmlab(MAE, lambda config: config.train_pipeline, crop),
        "ours": ours,
        "ours without simplejpeg": plain,
        "decoding alone": decode,
    }


# ---- Measuring ----------------------------------------------------------------------------------


def measure(paths: list[str], sides: dict[str, Side], rounds: int, images: int) -> dict:
    """Return the milliseconds of an image, (processor, wall), for each side in each round."""
    batch = paths * 2
    names, found = list(sides), {name: [] for name in sides}
    for turn in range(rounds + 1):
        for name in names if turn % 2 else names[::-1]:
            np.random.seed(turn), torch.manual_seed(turn)  # the same boxes for both OpenMMLab sides
            wall, start = time.perf_counter(), time.process_time()
            for _ in range(count := max(images // len(batch), 1)):
                sides[name](batch)
            spent = time.process_time() - start, time.perf_counter() - wall
            if turn:  # the first round warms up
                found[name].append([1e3 * s / count / len(batch) for s in spent])
    return found


def run(args: argparse.Namespace) -> dict:
    """Measure, print, and return what ``--json`` writes."""
    cv2.setNumThreads(0), torch.set_num_threads(1)
    init_default_scope("mmpretrain")
    rows = []
    print(
        "| photographs | pipeline | ms of a core: median (min..max) | wall, ms | MMPretrain / it |"
    )
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for kind, paths in write(Path(folder)).items():
            images = args.images if kind == "500×375" else args.images // 8
            found = measure(paths, sides(), args.rounds, images)
            for name, times in found.items():
                cpu, wall = zip(*times, strict=True)
                pairs = zip(found["MMPretrain"], times, strict=True)
                ratios = [theirs[0] / its[0] for theirs, its in pairs]
                rows.append(row(f"{kind}, {name}", cpu, "ms"))
                rows.append(row(f"{kind}, MMPretrain / {name}", ratios, "ratio"))
                print(f"| {kind} | {name} | {cell(cpu)} | {cell(wall)} | {cell(ratios)} |")
    print_cores(rows)
    return dict(name="input", rows=rows)


def print_cores(rows: list[dict]) -> None:
    """Print how many cores like this one feed a GPU."""
    print("\nCores that one GPU needs, by the images that it trains on in a second:\n")
    print(f"| photographs, pipeline | {' | '.join(f'{speed}/s' for speed in GPUS)} |")
    print(f"|---|{'---|' * len(GPUS)}")
    for each in rows:
        if each["unit"] == "ms" and "alone" not in each["what"]:
            cores = (f"{speed * each['median'] / 1000:.1f}" for speed in GPUS)
            print(f"| {each['what']} | {' | '.join(cores)} |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7, help="at least 5")
    parser.add_argument("--images", type=int, default=240, help="of a side in a round; large: 1/8")
    parser.add_argument("--json", type=Path, help="write the figures there")
    args = parser.parse_args()
    if args.rounds < 5:
        parser.error(f"--rounds must be at least 5, got {args.rounds}")
    found = run(args)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
