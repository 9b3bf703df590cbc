"""Plan a comparison: decide how many images each run sees, so that the budget is kept."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import time

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS

from xtra_toolkit.visualization.objectives.build import build
from xtra_toolkit.visualization.objectives.cost import flops, values_flops

PRETRAINING_SHARE, TUNING_SHARE = 0.6, 0.3  # of the budget; the rest is for the probes
MAX_TUNE_EPOCHS = 50
SECONDS = dict(m=60, h=3600, d=86400)
TIMED_STEPS = 3


@dataclass
class Plan:
    """Hold the runs of a comparison.

    Args:
        data: Name of the data set.
        seeds: Number of seeds of each run.
        images: Number of images that the pretraining of each config sees, by the config's name.
        labels: Number of labelled training images of the probes.
        tune_labels: Numbers of labelled training images of the fine-tuning runs, in rising order.
        tune_epochs: Number of epochs of the fine-tuning with the most labels.
        tune_rate: Peak learning rate of fine-tuning.
        held_out: Number of training images that replace the test images. 0: the test images.
        options: The user's ``KEY=VALUE`` options for each config.
    """

    data: str
    seeds: int
    images: dict[str, int]
    labels: int
    tune_labels: list[int] = field(default_factory=list)
    tune_epochs: int = 0
    tune_rate: float = 1e-3
    held_out: int = 0
    options: dict[str, list[str]] = field(default_factory=dict)

    def check(self, stored: dict, out: Path) -> None:
        """Compare this plan with the stored one; seeds and configs may have been added.

        Raises:
            ValueError: The folder holds the results of another plan.
        """
        requested, before = asdict(self), asdict(Plan(**stored))
        changed = [
            key
            for key, value in before.items()
            if key not in ("seeds", "images", "options") and requested[key] != value
        ]
        changed += [
            f"{key} of {name}"
            for key in ("images", "options")
            for name, value in before[key].items()
            if requested[key].get(name) != value
        ]
        if changed:
            raise ValueError(
                f"{out} holds the results of another comparison, which differs in "
                f"{', '.join(changed)}. Give the same arguments again to continue it, or name "
                "another folder with --out."
            )


def epochs_for(labels: int, tune_labels: Sequence[int], tune_epochs: int) -> int:
    """Return the number of epochs of a fine-tuning run.

    The run with the most labels takes ``tune_epochs``. A run with fewer labels repeats them until
    it has seen as many images, but at most 50 times (or ``tune_epochs`` times, if that is more).
    """
    repeats = tune_epochs * max(tune_labels) // labels
    return min(repeats, max(tune_epochs, MAX_TUNE_EPOCHS))


def parse_duration(text: str) -> float:
    """Return the seconds of a duration such as '90m', '2h' or '1h30m'.

    Raises:
        ValueError: The text is not a duration.
    """
    if not re.fullmatch(r"(\d+(\.\d+)?[mhd])+", text):
        raise ValueError(f"{text!r} was given as a budget; write minutes, hours or days: 90m, 2h")
    parts = re.findall(r"(\d+(?:\.\d+)?)([mhd])", text)
    return sum(float(number) * SECONDS[unit] for number, unit in parts)


def seconds_per_image(config: Config) -> float:
    """Measure how long pretraining takes for one image on this machine."""
    init_default_scope("mmpretrain")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = MODELS.build(config.model).to(device).train()
    grid, batch = model.backbone.grid, min(config.train_dataloader.batch_size, 64)
    height, width = grid.rows * grid.patch[0], grid.cols * grid.patch[1]
    images = torch.randn(batch, grid.channels, height, width, device=device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    for step in range(TIMED_STEPS + 1):
        if step == 1:  # the first step also allocates memory
            start = time()
        with torch.autocast(device, torch.bfloat16, enabled=device in _autocast_devices(config)):
            loss = model.loss(images)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss.item()  # wait for the GPU
    return (time() - start) / TIMED_STEPS / batch


def _autocast_devices(config: Config) -> Sequence[str]:
    """Return the device types on which a config trains in bfloat16."""
    wrapper = config.optim_wrapper
    return wrapper.get("devices", ("cuda",)) if wrapper.get("dtype") != "float32" else ()


def images_for(
    configs: dict[str, Config], seeds: int, seconds: float, equal: str, images: int | None = None
) -> dict[str, int]:
    """Return the number of images that the pretraining of each config sees.

    Args:
        configs: Pretraining configs by name.
        seeds: Number of runs of each config.
        seconds: The whole budget. It is not used if ``images`` is given.
        equal: ``'images'`` if all runs see the same number of images; ``'compute'`` if all runs
            cost as many FLOPs as those of the first config, see :func:`training_flops`.
        images: Number of images of the first config. Default: what the budget allows.
    """
    ratios = dict.fromkeys(configs, 1.0)  # images of a config / images of the first one
    if equal == "compute":
        costs = {name: sum(training_flops(config)) for name, config in configs.items()}
        first_cost = next(iter(costs.values()))
        ratios = {name: first_cost / cost for name, cost in costs.items()}
    if images is None:
        cost = sum(ratios[name] * seconds_per_image(config) for name, config in configs.items())
        images = round(PRETRAINING_SHARE * seconds / seeds / cost)
    # rounded first, so that a stored number of the first config gives the others again
    images = _whole_batches(images, next(iter(configs.values())).train_cfg.global_batch)
    return {
        name: _whole_batches(int(images * ratios[name]), config.train_cfg.global_batch)
        for name, config in configs.items()
    }


def training_flops(config: Config) -> tuple[int, int]:
    """Return the FLOPs of training with one image: of the model, and of the target's values.

    The backward pass of the model is counted as two forward passes. The values of a target, for
    example a teacher's features, need no backward pass.
    """
    model = build(config)
    return 3 * sum(flops(model)), values_flops(model)


def _whole_batches(images: int, batch: int) -> int:
    return max(images // batch, 1) * batch


def tune_epochs_for(config: Config, runs: int, tune_labels: Sequence[int], seconds: float) -> int:
    """Return the number of epochs of fine-tuning that fit in the budget.

    An image of fine-tuning is assumed to cost as much as one of the config's pretraining.

    Args:
        config: Pretraining config of the encoder.
        runs: Number of fine-tuning runs with each number of labels.
        tune_labels: Numbers of labelled images.
        seconds: The whole budget.
    """
    if not runs or not tune_labels:
        return 0
    available = TUNING_SHARE * seconds / seconds_per_image(config) / runs  # images

    def seen(epochs: int) -> int:
        return sum(n * epochs_for(n, tune_labels, epochs) for n in tune_labels)

    fitting = [n for n in range(1, MAX_TUNE_EPOCHS + 1) if seen(n) <= available]
    return max(fitting, default=1)


def find_config(name: str) -> Path:
    """Return the file of a config, which may be given as the name of a shipped config.

    Raises:
        ValueError: There is no such file, and not exactly one shipped config of this name.
    """
    from xtra_toolkit.models.hub import configs

    if Path(name).is_file():
        return Path(name)
    found = [path for path in sorted(configs().rglob("*.py")) if path.stem == name]
    if len(found) != 1:
        raise ValueError(
            f"{name!r} is neither a config file nor the name of one shipped config; give a path, "
            "or a name such as xtra_vit-b16 or cifar10_xtra."
        )
    return found[0]


def options_of_rows(
    names: Sequence[str], overrides: Sequence[str], variations: Sequence[str] = ()
) -> dict[str, tuple[Path, list[str]]]:
    """Return the config file and the ``KEY=VALUE`` options of each row of a comparison.

    A row is named after its file, without the ending, and after the values of its variation:
    ``cifar10_xtra``, and ``cifar10_xtra, lr=0.001``.

    Args:
        names: Config files, or names of shipped configs.
        overrides: ``KEY=VALUE`` options for each of them.
        variations: ``KEY=VALUE`` options, several in one string with blanks between them. Each
            config has a row without them, and one for each variation.

    Raises:
        ValueError: Two rows have the same name or folder, or a variation is not ``KEY=VALUE``.
    """
    rows = {}
    for path in map(find_config, names):
        for variation in ("", *variations):
            options = variation.split()
            if wrong := [option for option in options if "=" not in option]:
                raise ValueError(
                    f"{wrong[0]!r} was given to vary; write KEY=VALUE, and lists without blanks."
                )
            pairs = [option.partition("=") for option in options]
            values = [f"{key.rpartition('.')[2]}={value}" for key, _, value in pairs]
            row = ", ".join([path.stem, *values])
            if folder_name(row) in map(folder_name, rows):
                raise ValueError(
                    f"Two rows have the name {row!r}, which names the runs: two configs have the "
                    "same file name, a variation was given twice, or two have the same last part "
                    "of the key and the same value. Rename a config or drop a variation."
                )
            rows[row] = path, [*overrides, *options]
    return rows


def folder_name(row: str) -> str:
    """Return the name of a row's folders."""
    return re.sub(r"[^\w.=+-]+", "-", row)


def read_configs(rows: Mapping[str, tuple[Path, Sequence[str]]]) -> dict[str, Config]:
    """Return the pretraining config of each row, see :func:`options_of_rows`.

    Raises:
        ValueError: A file is not a pretraining config.
    """
    from xtra_toolkit.visualization.objectives.build import read_config

    return {name: read_config(path, options) for name, (path, options) in rows.items()}
