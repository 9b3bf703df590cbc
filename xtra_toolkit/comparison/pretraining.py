"""Run one pretraining of a comparison as ``mim train`` does, resumed where it was stopped."""

import math
import os
import re
import subprocess
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import time
from typing import Any

import click
import numpy as np
from mmengine.config import Config

PACKED, FOLDER = "xtra_toolkit.PackedImages", "xtra_toolkit.ImageFolder"
ERROR = re.compile(r"[\w.]*(Error|Exception|Interrupt)\b")
MIN_STEPS = 20  # the warm-up is a tenth of the run, and needs at least one step
SAVE_TIMEOUT = 120  # seconds that a stopped run may take to save its checkpoint


def check_run(config: Config, datasets: Collection[str], count: int, images: int) -> None:
    """Raise a ValueError if a config cannot be trained on these images, or not for so few.

    Args:
        config: A pretraining config.
        datasets: Registered names of the supported types of data sets.
        count: Number of images in the training set.
        images: Number of images that the run sees.
    """
    dataset, batch = config.train_dataloader.dataset.type, config.train_cfg.global_batch
    if dataset not in datasets:
        raise ValueError(
            f"{config.filename} reads its images with {dataset}; for these images a comparison can "
            f"use {' or '.join(sorted(datasets))}. Change train_dataloader.dataset.type."
        )
    if count < batch or images < MIN_STEPS * batch:
        smaller = max(min(count, images // MIN_STEPS), 1)
        raise ValueError(
            f"{config.filename} takes {batch} images a step. There are {count:,} images and the "
            f"run would see {images:,}, but a run has at least {MIN_STEPS} steps. Give a larger "
            f"budget, more --images, or a smaller batch: -o train_cfg.global_batch={smaller}."
        )


def run_options(
    config: Config, roots: dict[str, str], count: int, images: int, work: Path
) -> dict[str, Any]:
    """Return the values that a run changes in its config: the data, the length and the schedule.

    Warm-up and decay keep their share of the run.

    Args:
        config: A pretraining config.
        roots: Folder of the images for each supported type of data set, by its registered name.
        count: Number of images in the training set.
        images: Number of images that the run sees.
        work: An existing folder, for the list of images if a run reads only some image files.

    Raises:
        ValueError: The data set has another type, or there are too few images for the batch.
    """
    check_run(config, roots, count, images)
    dataset, batch = config.train_dataloader.dataset.type, config.train_cfg.global_batch
    epochs = math.ceil(images / count)
    epoch_images = images // epochs // batch * batch
    options: dict[str, Any] = {
        "train_dataloader.dataset.data_root": roots[dataset],
        "train_cfg.max_epochs": epochs,
    }
    if epoch_images < count // batch * batch:
        options |= _subset_options(dataset, roots[dataset], epoch_images, work)
    factor = epochs / config.train_cfg.max_epochs
    for i, scheduler in enumerate(config.get("param_scheduler") or ()):
        ends = {key: scheduler[key] for key in ("begin", "end") if scheduler.get(key)}
        options |= {f"param_scheduler.{i}.{key}": value * factor for key, value in ends.items()}
    return options


def _subset_options(dataset: str, root: str, images: int, work: Path) -> dict[str, Any]:
    """Return the options that restrict a data set to some of its images, drawn by a fixed seed."""
    if dataset == PACKED:  # these images were shuffled when they were packed
        return {"train_dataloader.dataset.indices": images}
    from xtra_toolkit.data import ImageFolder

    found = sorted(ImageFolder(root, lazy_init=True)._find_samples())
    order = np.random.default_rng(0).permutation(len(found))[:images]
    image_list = (work / "images.txt").absolute()
    paths = [os.path.relpath(os.path.join(root, found[i]), root) for i in order]
    image_list.write_text("".join(f"{path}\n" for path in paths))
    return {"train_dataloader.dataset.ann_file": str(image_list)}


def pretrain(config: Path, work: Path, options: dict, overrides: Sequence[str] = ()) -> Path:
    """Train a config as ``mim train mmpretrain CONFIG`` does, and return the checkpoint.

    A stopped run is resumed; a finished run is not run again. The output goes to ``train.log`` in
    ``work``, and the duration to ``seconds.txt``.

    Args:
        config: The config file.
        work: Folder of the run, created if it does not exist.
        options: Values for ``--cfg-options``.
        overrides: Further ``KEY=VALUE`` options, as the user gave them.

    Raises:
        ValueError: The run failed.
    """
    work.mkdir(parents=True, exist_ok=True)
    done, log = work / "done", work / "train.log"
    if not done.exists():
        command = [sys.executable, "-m", "xtra_toolkit.train", str(config)]
        command += ["--work-dir", str(work), "--resume"]
        cfg_options = [*(f"{key}={value}" for key, value in options.items()), *overrides]
        command += ["--cfg-options", *cfg_options] if cfg_options else []
        click.echo("$ python " + " ".join(command[1:]))
        with measure_seconds(work / "seconds.txt"):
            code = _call(command, log)
        if code:
            raise ValueError(f"The run failed: {_last_error(log)}. The whole log is {log}.")
        done.touch()
    return work / Path((work / "last_checkpoint").read_text()).name


@contextmanager
def measure_seconds(path: Path) -> Iterator[None]:
    """Add the duration of the block to the number in a file, even if the block is interrupted."""
    before, start = float(path.read_text()) if path.exists() else 0.0, time()
    try:
        yield
    finally:
        path.write_text(f"{before + time() - start:.1f}")


def _call(command: list[str], log: Path) -> int:
    """Run a command and return its exit code. On an interrupt, let it save and wait for it."""
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}  # as in xtra_toolkit.training.start
    with open(log, "a") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True, env=environment
        )
        try:
            return process.wait()
        except BaseException:
            _stop(process)
            raise


def _stop(process: subprocess.Popen) -> None:
    """Send SIGTERM, on which a training saves; kill a process that does not end in time."""
    process.terminate()
    try:
        process.wait(SAVE_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _last_error(log: Path) -> str:
    """Return the last error in a log, except the one of the process that launched the training."""
    lines = log.read_text(errors="replace").splitlines()
    errors = [line for line in lines if ERROR.match(line) and "CalledProcessError" not in line]
    return errors[-1].rstrip(".") if errors else "its process ended without an error"
