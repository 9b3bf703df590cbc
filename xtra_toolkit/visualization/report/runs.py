"""Read runs from the files that MMEngine wrote to their working folders.

    WORK_DIR/20250101_120000/vis_data/config.py, scalars.json

A folder named by its time is one start of a run. A start that resumes continues the run before it
in the same WORK_DIR; every other start is a run of its own.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mmengine.config import Config

from xtra_toolkit.visualization.report.config_data import read_config, read_records

PROBES = {"probe/linear_top1": "online linear probe", "probe/knn_top1": "online kNN probe"}
SPLITS = ("train", "training", "val", "validation", "test")


@dataclass
class Run:
    """One run with all its starts.

    Args:
        folder: Folder of the first start.
        config: Config of the last start.
        starts: Folders of all starts.
        benchmark: Name of the benchmark; None if the config has none.
        model: Description of the encoder.
        protocol: Protocol of the evaluation, or 'pretraining'.
        length: Number of epochs, or of iterations if epochs are not counted.
        step: Epoch or iteration of the last validation.
        accuracy: Top-1 accuracy of the last validation in per cent; None before the first.
        probes: Last accuracies of the online probes in per cent, by the kind of probe.
        rate: Learning rate of this accuracy, the best of a sweep.
        trained: Whether a training step was logged.
        notes: A sentence for each thing in the folders that could not be read.
    """

    folder: Path
    config: Config
    starts: list[Path]
    benchmark: str | None
    model: str
    protocol: str
    length: int
    step: int = 0
    accuracy: float | None = None
    probes: dict[str, float] = field(default_factory=dict)
    rate: float | None = None
    trained: bool = False
    notes: list[str] = field(default_factory=list)

    @property
    def pretrains(self) -> bool:
        """Return whether the run pretrains a model, rather than only tests one."""
        tested = self.accuracy is not None and not self.trained
        return "target_generator" in (self.config.get("model") or {}) and not tested

    @property
    def data(self) -> str:
        """Return the benchmark, or else the name of the data set that measures the accuracy."""
        return self.benchmark or data_of(self.config)

    @property
    def weights(self) -> str | None:
        """Return the checkpoint from which the run started."""
        backbone = (self.config.get("model") or {}).get("backbone") or {}
        return checkpoint_of(backbone) or self.config.get("load_from")

    @property
    def finished(self) -> bool:
        """Return whether the run was validated at its end."""
        return self.accuracy is not None and self.step >= self.length

    @property
    def state(self) -> str:
        """Describe the last validation."""
        if self.accuracy is None:
            return "no accuracy in its log" if self.trained else "no step in its log"
        rate = f", learning rate {self.rate:g}" if self.rate else ""
        return f"{self.accuracy:.2f} % after {self.step} of {self.length}{rate}"


def find_runs(paths: Iterable[Path], say: Callable[[str], None] = warnings.warn) -> list[Run]:
    """Return all runs in folders, in the order of the paths; below one by folder and time.

    Args:
        paths: Working folders, or folders above them.
        say: Called with a sentence for each start that cannot be read and is left out.

    Raises:
        ValueError: If a path contains no run, or no run can be read.
    """
    starts: dict[Path, list[Path]] = {}  # by working folder
    refused = []
    for path in paths:
        found = {p.parent.resolve() for p in path.rglob("vis_data")}
        if not found:
            raise ValueError(
                f"No run in {path}: give a --work-dir of mim train, or a folder with several. A "
                "run has a folder named by its time, with vis_data/config.py in it."
            )
        for start in sorted(found):
            starts.setdefault(start.parent, []).append(start)
    runs = []
    for start in (start for folder in starts.values() for start in sorted(set(folder))):
        try:
            config, notes = config_of(start)
            new = described(config, start)
        except ValueError as error:
            refused.append(str(error))
            continue
        # a test between two starts has not trained, so no start continues it
        before = [r for r in runs if r.trained and r.folder.parent == start.parent]
        continues = bool(config.get("resume") and before)
        run = before[-1] if continues else new
        run.notes += [f"{start.name}: {note}" for note in notes]
        if continues:
            run.starts.append(start)
            run.config = config
        read_validations(run, start / "vis_data" / "scalars.json")
        read_validations(run, start / f"{start.name}.json")  # where mim test writes
        if not continues:
            runs.append(run)
    if not runs:
        raise ValueError(refused[0])
    for sentence in refused:
        say(sentence)
    return runs


def config_of(start: Path) -> tuple[Config, list[str]]:
    """Read, as data, the config that MMEngine's visualizer wrote when the run started.

    Returns:
        The config, and a sentence for each part of the file that is left out.

    Raises:
        ValueError: If the file is missing or no config.
    """
    path = start / "vis_data" / "config.py"
    if not path.is_file():
        raise ValueError(
            f"There is no {path}: MMEngine's LocalVisBackend writes it, and without it the run "
            "cannot be described."
        )
    return read_config(path)


def read_validations(run: Run, log: Path) -> None:
    """Read the last validation of a log into ``run``, if the log has one."""
    records, odd = read_records(log)
    if odd:
        run.notes.append(f"{odd} lines of {log.parent.name}/{log.name} hold no numbers, left out")
    for line in records:
        run.trained |= "loss" in line
        if "accuracy/top1" in line:
            run.accuracy, run.step = line["accuracy/top1"], line.get("step", run.length)
            run.rate = line.get("accuracy/best_lr")
        run.probes |= {label: line[key] for key, label in PROBES.items() if key in line}


def lines(log: Path) -> Iterator[dict]:
    """Yield the numbers in each line of a log in JSON; unreadable lines are left out."""
    yield from read_records(log)[0]


def described(config: Config, folder: Path) -> Run:
    """Describe a run by its config; raise a ValueError if entries have unexpected types."""
    train, model = config.get("train_cfg") or {}, config.get("model") or {}
    try:
        name = encoder_of(model.get("backbone") or {}, config.get("load_from"))
        protocol = protocol_of(model, config.get("test_cfg") or config.get("val_cfg") or {})
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{folder / 'vis_data' / 'config.py'} describes no model: {error!r}"
        ) from error
    return Run(
        folder=folder,
        config=config,
        starts=[folder],
        benchmark=config.get("benchmark"),
        model=name,
        protocol=protocol,
        length=train.get("max_epochs") or train.get("max_iters") or 0,
    )


def data_of(config: Config) -> str:
    """Name the data set of a validation, or else of the training, by its folder or its type."""
    for loader in ("val_dataloader", "train_dataloader"):
        dataset = (config.get(loader) or {}).get("dataset") or {}
        parts = [part for part in Path(dataset.get("data_root") or "").parts if part not in SPLITS]
        if name := parts[-1] if parts else (dataset.get("type") or "").split(".")[-1]:
            return name
    return "unnamed data set"


def protocol_of(model: dict, loop: dict) -> str:
    """Return attentive, linear, fine-tuning, segmentation, pretraining, kNN or the head's type."""
    if "KNN" in loop.get("type", ""):
        return "kNN"
    if "target_generator" in model:
        return "pretraining"
    if model.get("type", "").endswith("Segmentor"):
        return "segmentation"
    if (model.get("backbone") or {}).get("frozen_stages", -1) in (-1, 0):
        return "fine-tuning"
    head = model.get("head") or {}
    kind = head.get("probe", head).get("type", "no head").split(".")[-1]
    known = dict(AttentiveProbe="attentive", LinearClsHead="linear")
    return known.get(kind, kind)


def encoder_of(backbone: dict, load_from: str | None) -> str:
    """Describe an encoder: weights, sizes, and the mask if it is not the checkpoint's."""
    arch, patch, size = (backbone.get(key, "?") for key in ("arch", "patch_size", "img_size"))
    if isinstance(arch, dict):
        arch = f"{arch['num_layers']} layers of {arch['embed_dims']}"
    weights = checkpoint_of(backbone) or load_from
    name = weights or "random weights"
    if arch != "?" or not weights:  # otherwise the checkpoint gives the sizes
        name += f" ({arch}, patch {patch}, {size} px)"
    kind = backbone.get("type", "no encoder")
    if kind.split(".")[-1] != "MaskedViT":
        name += f", as {kind}"
    mask, changed = dict(backbone.get("mask") or {}), backbone.get("change_mask", False)
    if mask and (changed or not weights):
        kind = mask.pop("type").split(".")[-1]
        values = ", ".join(f"{key}={value}" for key, value in mask.items())
        name += f", mask {'changed to ' * bool(changed)}{kind}({values})"
    return name


def checkpoint_of(backbone: dict) -> str | None:
    """Return the checkpoint that a backbone's ``init_cfg`` names; None if it names none."""
    init = backbone.get("init_cfg")
    named = init.get("checkpoint") if isinstance(init, dict) else None
    return named if isinstance(named, str) else None
