"""One pretraining run of a comparison: what ``mim train`` does, resumed where it was stopped."""

import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import time
from typing import Any

import click
import numpy as np
from mmengine.config import Config

PACKED, FOLDER = "xtra_toolkit.PackedImages", "xtra_toolkit.ImageFolder"
ERROR = re.compile(r"[\w.]*(Error|Exception|Interrupt)\b")
LEAST_STEPS = 20  # the warm-up needs one
SAVING = 120  # seconds that a stopped run may take to save


def run_options(config: Config, data: dict[str, str], count: int, images: int, work: Path) -> dict:
    """Return what a run changes in its config: the data, its length, and the schedule's.

    Warm-up and decay keep their share of the run.

    Args:
        config: A pretraining config.
        data: Where each type of data set finds its images, by the type's registered name.
        count: Images of the training set.
        images: How many images the run sees; a multiple of the batch in each epoch.
        work: Existing folder for the list of the images, where only a part of them is used.

    Raises:
        ValueError: The data set is of another type, or smaller than the batch.
    """
    kind, batch = config.train_dataloader.dataset.type, config.train_cfg.global_batch
    if kind not in data:
        raise ValueError(
            f"{config.filename} reads its images with {kind}; for these images a comparison can "
            f"use {' or '.join(sorted(data))}. Change train_dataloader.dataset.type."
        )
    if count < batch or images < LEAST_STEPS * batch:
        raise ValueError(
            f"{config.filename} takes {batch} images a step; there are {count:,} images and the "
            f"run would see {images:,}, and {LEAST_STEPS} steps are the least. Give a larger "
            "budget or a smaller batch: -o train_cfg.global_batch=64."
        )
    epochs = math.ceil(images / count)
    each = images // epochs // batch * batch
    options: dict[str, Any] = {
        "train_dataloader.dataset.data_root": data[kind],
        "train_cfg.max_epochs": epochs,
    }
    if each < count // batch * batch:
        options |= _part(kind, data[kind], each, work)
    factor = epochs / config.train_cfg.max_epochs
    for i, scheduler in enumerate(config.get("param_scheduler") or ()):
        ends = {key: scheduler[key] for key in ("begin", "end") if scheduler.get(key)}
        options |= {f"param_scheduler.{i}.{key}": value * factor for key, value in ends.items()}
    return options


def _part(kind: str, root: str, images: int, work: Path) -> dict:
    """Return the options that restrict a data set to some of its images, drawn by a fixed seed."""
    if kind == PACKED:  # these were shuffled when they were packed
        return {"train_dataloader.dataset.indices": images}
    from xtra_toolkit.data import ImageFolder

    found = sorted(ImageFolder(root, lazy_init=True)._find_samples())
    order = np.random.default_rng(0).permutation(len(found))[:images]
    part = (work / "images.txt").absolute()
    paths = [os.path.relpath(os.path.join(root, found[i]), root) for i in order]
    part.write_text("".join(f"{path}\n" for path in paths))
    return {"train_dataloader.dataset.ann_file": str(part)}


def pretrain(config: Path, work: Path, options: dict, own: Sequence[str] = ()) -> Path:
    """Train a config as ``mim train mmpretrain CONFIG`` does, and return the checkpoint.

    A run that was stopped goes on where it was; one that is finished is not run again.
    Its output goes to ``train.log`` in ``work``, and the seconds that it took to ``seconds.txt``.

    Args:
        config: The config file.
        work: The run's folder, made where it is absent.
        options: Values for ``--cfg-options``.
        own: More of them, as the user typed them.

    Raises:
        ValueError: The run failed.
    """
    work.mkdir(parents=True, exist_ok=True)
    done, log = work / "done", work / "train.log"
    if not done.exists():
        command = [sys.executable, "-m", "xtra_toolkit.train", str(config)]
        command += ["--work-dir", str(work), "--resume"]
        changes = [*(f"{key}={value}" for key, value in options.items()), *own]
        command += ["--cfg-options", *changes] if changes else []
        click.echo("$ python " + " ".join(command[1:]))
        with clock(work / "seconds.txt"):
            code = _call(command, log)
        if code:
            raise ValueError(f"The run failed: {_reason(log)}. The whole log is {log}.")
        done.touch()
    return work / Path((work / "last_checkpoint").read_text()).name


@contextmanager
def clock(path: Path) -> Iterator[None]:
    """Add the seconds that the block takes to the number in a file, also when it is stopped."""
    before, start = float(path.read_text()) if path.exists() else 0.0, time()
    try:
        yield
    finally:
        path.write_text(f"{before + time() - start:.1f}")


def _call(command: list[str], log: Path) -> int:
    """Run a command; when this process is interrupted, let it save and wait for it."""
    with open(log, "a") as file:
        child = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            return child.wait()
        except BaseException:
            _stop(child)
            raise


def _stop(child: subprocess.Popen) -> None:
    """End a training, which saves on SIGTERM; one that does not end in time is killed."""
    child.terminate()
    try:
        child.wait(SAVING)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _reason(log: Path) -> str:
    """Return the last error that a log names, other than that of the process above it."""
    lines = log.read_text(errors="replace").splitlines()
    errors = [line for line in lines if ERROR.match(line) and "CalledProcessError" not in line]
    return errors[-1].rstrip(".") if errors else "its process ended without an error"
