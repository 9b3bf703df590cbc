"""Derive a whole training config from a config and the few numbers that a user gives.

Sizes, widths, schedules and intervals keep their proportions to the config that is given.
"""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmpretrain.models import VisionTransformer

from xtra_toolkit.models.classifier import check_classes
from xtra_toolkit.registry import DATASETS

SHORT = dict(ti="deit-tiny", s="deit-small", b="base", l="large", h="huge")
SIZES = ("scale", "crop_size", "size", "img_size")  # keys of transforms that hold a side in pixels
WIDTHS = (("neck", "width"), ("neck", "projection"), ("head", "hidden"))
HEAD_DIM = 64  # a decoder's heads become no narrower than this, or than they were
STEPS_AN_EPOCH = 4  # that a batch which nobody chose leaves at least


@dataclass
class Numbers:
    """Hold the numbers of the command line. None keeps the value of the config."""

    data: Path | None = None
    size: int | None = None
    arch: str | None = None
    epochs: int | None = None
    batch: int | None = None
    lr: float | None = None
    processes: int = 1


def apply_size(cfg: Config, size: int) -> None:
    """Set the side of the encoder's images, and of each crop that had the former one."""
    former = cfg.model.backbone.get("img_size", 224)
    cfg.model.backbone.img_size = size
    changed = 0
    for name in ("train_dataloader", "val_dataloader", "test_dataloader"):
        for step in _dicts((cfg.get(name) or {}).get("dataset", {})):
            for key in SIZES:
                if step.get(key) in (former, [former, former], (former, former)):
                    step[key] = size if step[key] == former else (size, size)
                    changed += name == "train_dataloader"
    if not changed:
        raise ValueError(
            f"--size {size} was given, and no step of train_dataloader.dataset.pipeline crops or "
            f"scales to the former {former} pixels; set the pipeline's own key with -o."
        )


def _dicts(value: Any) -> Iterator[dict]:
    """Yield every dictionary inside a nested value, the outer ones first."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from _dicts(item)


def apply_arch(cfg: Config, arch: str) -> None:
    """Set the encoder's architecture; widths of decoder and head keep their share of its width."""
    known = sorted(VisionTransformer.arch_zoo)
    name = SHORT.get(arch.lower(), arch.lower())
    if name not in known:
        raise ValueError(
            f"--arch {arch} was given; there are {', '.join(SHORT)}, and MMPretrain's "
            f"{', '.join(known)}."
        )
    if not str(cfg.model.backbone.type).endswith(("MaskedViT", "VisionTransformer")):
        raise ValueError(
            f"--arch {arch} was given, and the encoder of this config is a "
            f"{cfg.model.backbone.type}, which has no such sizes; set its own keys with -o."
        )
    former = embed_dims(cfg.model.backbone.get("arch", "base"))
    cfg.model.backbone.pop("arch", None)
    cfg.model.backbone.arch = name
    share = embed_dims(name) / former
    for part, key in WIDTHS if share != 1 else ():
        if (value := (cfg.model.get(part) or {}).get(key)) is None:
            continue
        heads = cfg.model[part].get("heads") if key == "width" else None
        cfg.model[part][key] = width = max(64, 64 * round(value * share / 64))
        if heads:
            least = min(value // heads, HEAD_DIM)
            fits = (n for n in range(heads, 1, -1) if width % n == 0 and width // n >= least)
            cfg.model[part].heads = next(fits, 1)


def embed_dims(arch: str | dict) -> int:
    """Return the width of an architecture that is named or written out."""
    return (arch if isinstance(arch, dict) else VisionTransformer.arch_zoo[arch])["embed_dims"]


def apply_data(cfg: Config, folder: Path) -> None:
    """Read the images of a folder.

    Raises:
        ValueError: There is no such folder, or the config's data set does not read one.
    """
    dataset = cfg.train_dataloader.dataset
    if not folder.is_dir():
        raise ValueError(f"--data {folder} was given, and there is no such folder.")
    if "data_root" not in dataset:
        raise ValueError(
            f"--data {folder} was given, and the config reads its images with {dataset.type}, "
            "which takes no folder: leave --data out, or choose another config (xtra configs)."
        )
    dataset.data_root = str(folder.resolve())


def count_images(cfg: Config) -> int:
    """Return how many training images there are.

    Raises:
        ValueError: They cannot be read, or have more classes than the config's head.
    """
    dataset = {**cfg.train_dataloader.dataset}
    if "pipeline" in dataset:
        dataset["pipeline"] = []
    try:
        built = DATASETS.build(dataset)
        check_classes(built, cfg.model.get("head"))
        return len(built)
    except ValueError:
        raise
    except Exception as error:  # data sets of other packages raise anything
        raise ValueError(
            f"The training images cannot be read: {error}. The config reads them with "
            f"{dataset.get('type')}, which may ask for folders of its own layout; "
            "xtra_toolkit.ImageFolder, which the shipped configs use, takes any folder."
        ) from error


def apply_batch(cfg: Config, images: int, numbers: Numbers) -> None:
    """Choose the images of a step, and a learning rate that goes with them.

    Without ``--batch`` it is the config's, or the power of two that leaves an epoch four steps. If
    it is not the config's, the rate follows the square root of the batch, unless it is given.
    """
    former = global_batch(cfg)
    batch = numbers.batch
    if batch is None:
        most = max(images // STEPS_AN_EPOCH, numbers.processes, 1)
        batch = former if former <= most else 2 ** int(math.log2(most))
        batch = max(batch // numbers.processes, 1) * numbers.processes
    if batch > images or batch % numbers.processes:
        raise ValueError(
            f"--batch {batch} was given, for {images} images and {numbers.processes} process(es); "
            "it must be at most the number of images, and a multiple of the processes."
        )
    if "global_batch" in cfg.train_cfg:
        cfg.train_cfg.global_batch = batch
    else:
        cfg.train_dataloader.batch_size = batch // numbers.processes
    optimizer = cfg.optim_wrapper.optimizer
    if numbers.lr is not None:
        optimizer.lr = numbers.lr
    elif batch != former:
        optimizer.lr = float(f"{optimizer.lr * math.sqrt(batch / former):.3g}")


def global_batch(cfg: Config) -> int:
    """Return the images of a step, over all processes."""
    return cfg.train_cfg.get("global_batch") or cfg.train_dataloader.batch_size


def run_length(cfg: Config, images: int) -> tuple[int, int]:
    """Return the steps of an epoch and of the whole run."""
    steps = max(images // global_batch(cfg), 1)
    total = steps * cfg.train_cfg.get("max_epochs", 1)
    return steps, min(total, cfg.train_cfg.get("max_iters") or total)


def apply_schedule(cfg: Config, former_epochs: float, total: int) -> None:
    """Give each part of the learning-rate schedule the share of the run that it had.

    Parts that count iterations stay as they are. A part that would last less than two steps is
    left out.
    """
    kept, parts = [], cfg.get("param_scheduler") or ()
    for part in [parts] if isinstance(parts, dict) else parts:
        if part.get("by_epoch", True):
            for key in ("begin", "end", "T_max", "step_size", "milestones"):
                if part.get(key):
                    part[key] = _share(part[key], total / former_epochs)
            part.update(by_epoch=False)
            part.pop("convert_to_iter_based", None)
            if part.get("end", total) - part.get("begin", 0) < 2:
                continue
        kept.append(part)
    cfg.param_scheduler = kept


def _share(epochs: float | list[float], steps: float) -> int | list[int]:
    """Return steps in place of epochs; ``steps`` is the number of steps of an epoch."""
    if isinstance(epochs, list | tuple):
        return [round(each * steps) for each in epochs]
    return round(epochs * steps)


def apply_intervals(cfg: Config, steps: int, total: int) -> None:
    """Log about 100 times, draw 4 and save 5 times a run, unless the config does so more often."""
    epochs = math.ceil(total / steps)
    wanted = dict(logger=total // 100, reconstruction=total // 4, checkpoint=epochs // 5)
    for name, interval in wanted.items():
        hook = (cfg.get("default_hooks") or {}).get(name)
        if hook and hook.get("interval"):
            hook.interval = max(min(hook.interval, interval), 1)


def apply_processes(cfg: Config, processes: int) -> None:
    """Prepare for several processes: one for each GPU, or gloo where there is no GPU.

    Raises:
        ValueError: There are fewer GPUs than processes.
    """
    gpus = torch.cuda.device_count()
    if gpus and processes > gpus:
        raise ValueError(
            f"--gpus {processes} was given, and this machine has {gpus} GPU(s); give at most that "
            "many. docs/cluster.md says how to train on several machines."
        )
    if processes > 1 and not gpus:
        imports = dict(cfg.get("custom_imports") or {}).get("imports", [])
        imports = [imports] if isinstance(imports, str) else list(imports)
        cfg.custom_imports = dict(imports=[*imports, "xtra_toolkit.engine.gloo"])
        cfg.model_wrapper_cfg = dict(type="MMDistributedDataParallel", device_ids=None)


def apply_machine(cfg: Config, processes: int, fits: int) -> None:
    """Choose the data loader's workers, and the micro-batch that fits the memory.

    Args:
        cfg: The config; its global batch is known.
        processes: How many train.
        fits: Images that the memory of one process holds in training.
    """
    loader = cfg.train_dataloader
    cores = len(os.sched_getaffinity(0)) // processes
    loader.num_workers = min(loader.get("num_workers", 0), max(cores - 1, 0))
    if not loader.num_workers:
        loader.persistent_workers = False
    if "global_batch" in cfg.train_cfg:
        share = cfg.train_cfg.global_batch // processes
        sizes = (n for n in range(min(share, max(fits, 1)), 0, -1) if share % n == 0)
        loader.batch_size = next(sizes)
