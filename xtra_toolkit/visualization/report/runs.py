"""Runs, read from what MMEngine left in their working folders.

    WORK_DIR/20250101_120000/vis_data/config.py, scalars.json

A folder by time is one start of a run. A start that resumes continues the one before it in the
same WORK_DIR; any other is a run of its own.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mmengine.config import Config

from xtra_toolkit.visualization.report.config_data import read_config, read_records


@dataclass
class Run:
    """One run; ``accuracy`` is its last validation's top-1 in per cent, None before any.

    ``starts`` are the folders of its starts, ``folder`` the first, and ``config`` is the last's.
    ``notes`` has a sentence for each thing in the folders that could not be read.
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
    rate: float | None = None
    trained: bool = False
    notes: list[str] = field(default_factory=list)

    @property
    def pretrains(self) -> bool:
        """Is it of a mask and a target, and no test of one?"""
        tested = self.accuracy is not None and not self.trained
        return "target_generator" in (self.config.get("model") or {}) and not tested

    @property
    def weights(self) -> str | None:
        """The checkpoint that it began from."""
        backbone = (self.config.get("model") or {}).get("backbone") or {}
        return checkpoint_of(backbone) or self.config.get("load_from")

    @property
    def finished(self) -> bool:
        """Was it validated at its end?"""
        return self.accuracy is not None and self.step >= self.length

    @property
    def state(self) -> str:
        """In words."""
        if self.accuracy is None:
            return "no accuracy in its log" if self.trained else "no step in its log"
        rate = f", learning rate {self.rate:g}" if self.rate else ""
        return f"{self.accuracy:.2f} % after {self.step} of {self.length}{rate}"


def find_runs(paths: Iterable[Path], say: Callable[[str], None] = warnings.warn) -> list[Run]:
    """Every run at or below the paths, in the order of folders and times.

    Args:
        paths: working folders, or folders above them.
        say: is given a sentence for each start of a run that cannot be read and is left out.

    Raises:
        ValueError: a path with no run in it, or no run can be read.
    """
    starts, refused = set(), []
    for path in paths:
        found = {p.parent.resolve() for p in path.rglob("vis_data")}
        if not found:
            raise ValueError(
                f"No run in {path}: give a --work-dir of mim train, or a folder with several. A "
                "run has a folder named by its time, with vis_data/config.py in it."
            )
        starts |= found
    runs = []
    for start in sorted(starts):
        try:
            config, notes = config_of(start)
            new = described(config, start)
        except ValueError as error:
            refused.append(str(error))
            continue
        # a test between two starts has trained nothing, and nothing continues it
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
    """What MMEngine's local visualizer backend wrote when the run started, read as data.

    Returns:
        The config, and a sentence for each part of the file that is left out.

    Raises:
        ValueError: the file is absent or no config.
    """
    path = start / "vis_data" / "config.py"
    if not path.is_file():
        raise ValueError(
            f"There is no {path}: it is MMEngine's LocalVisBackend that writes it, and without it "
            "the run cannot be told."
        )
    return read_config(path)


def read_validations(run: Run, log: Path) -> None:
    """Takes the last one of a log, which a run that stopped early may lack."""
    records, odd = read_records(log)
    if odd:
        run.notes.append(f"{odd} lines of {log.parent.name}/{log.name} hold no numbers, left out")
    for line in records:
        run.trained |= "loss" in line
        if "accuracy/top1" in line:
            run.accuracy, run.step = line["accuracy/top1"], line.get("step", run.length)
            run.rate = line.get("accuracy/best_lr")


def lines(log: Path) -> Iterator[dict]:
    """Of JSON, their numbers; one that was cut off by a kill is left out."""
    yield from read_records(log)[0]


def described(config: Config, folder: Path) -> Run:
    """What a config says of its run; ValueError where its entries are of unknown types."""
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


def protocol_of(model: dict, loop: dict) -> str:
    """Attentive, linear, fine-tuning, pretraining, kNN, or the type of an unknown head."""
    if "KNN" in loop.get("type", ""):
        return "kNN"
    if "target_generator" in model:
        return "pretraining"
    if model.get("type", "").endswith("Segmentor"):
        return "segmentation"
    if (model.get("backbone") or {}).get("frozen_stages", -1) < 1:
        return "fine-tuning"
    head = model.get("head") or {}
    kind = head.get("probe", head).get("type", "no head").split(".")[-1]
    known = dict(AttentiveProbe="attentive", LinearClsHead="linear")
    return known.get(kind, kind)


def encoder_of(backbone: dict, load_from: str | None) -> str:
    """The weights, the shape, and the mask where the checkpoint does not settle it."""
    arch, patch, size = (backbone.get(key, "?") for key in ("arch", "patch_size", "img_size"))
    if isinstance(arch, dict):
        arch = f"{arch['num_layers']} layers of {arch['embed_dims']}"
    weights = checkpoint_of(backbone) or load_from
    name = f"{weights or 'random weights'} ({arch}, patch {patch}, {size} px)"
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
    """The file that a backbone's init_cfg names, which may be a list of initialisers."""
    init = backbone.get("init_cfg")
    named = init.get("checkpoint") if isinstance(init, dict) else None
    return named if isinstance(named, str) else None
