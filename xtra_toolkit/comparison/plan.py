"""What a comparison runs: how many images each run sees, so that the budget holds."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import time

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS

from xtra_toolkit.visualization.objectives.build import build
from xtra_toolkit.visualization.objectives.cost import flops

PRETRAINING, TUNING = 0.6, 0.3  # shares of a budget; the rest is for probes
MOST_EPOCHS = 50  # of fine-tuning
UNITS = dict(m=60, h=3600, d=86400)
STEPS = 3  # that are timed


@dataclass
class Plan:
    """The runs of a comparison.

    Args:
        data: The data set's name.
        seeds: How many seeds each run has.
        images: How many images the pretraining of each config sees, by the config's name.
        labels: Labelled training images of the probes.
        tune_labels: Labelled training images of each fine-tuning.
        tune_epochs: How often a fine-tuning sees each of them.
        tune_rate: Peak learning rate of fine-tuning.
    """

    data: str
    seeds: int
    images: dict[str, int]
    labels: int
    tune_labels: list[int] = field(default_factory=list)
    tune_epochs: int = 0
    tune_rate: float = 1e-3

    def epochs_for(self, labels: int) -> int:
        """Return how often a fine-tuning sees each of its labelled images.

        The one with the most labels sees each ``tune_epochs`` times. One with fewer labels repeats
        them until it has seen as many images, but at most 50 times or ``tune_epochs`` times.
        """
        repeats = self.tune_epochs * max(self.tune_labels) // labels
        return min(repeats, max(self.tune_epochs, MOST_EPOCHS))

    def check(self, stored: dict, out: Path) -> None:
        """Raise ValueError where a folder holds the results of another plan.

        More seeds and more configs may be added to a plan.
        """
        own = asdict(self)
        odd = [key for key, value in stored.items() if key not in ("seeds", "images")]
        odd = [key for key in odd if own[key] != stored[key]]
        odd += [f"images of {n}" for n, i in stored["images"].items() if own["images"].get(n) != i]
        if odd:
            raise ValueError(
                f"{out} holds the results of another comparison, which differs in "
                f"{', '.join(odd)}. Give the same arguments again to go on with it, or name "
                "another folder with --out."
            )


def parse_duration(text: str) -> float:
    """Return the seconds of a duration such as '90m', '2h' or '1h30m'.

    Raises:
        ValueError: The text is no duration.
    """
    if not re.fullmatch(r"(\d+(\.\d+)?[mhd])+", text):
        raise ValueError(f"{text!r} was given as a budget; write minutes, hours or days: 90m, 2h")
    return sum(float(n) * UNITS[unit] for n, _, unit in re.findall(r"(\d+(\.\d+)?)([mhd])", text))


def seconds_per_image(config: Config) -> float:
    """Measure how long pretraining takes for one image on this machine."""
    init_default_scope("mmpretrain")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = MODELS.build(config.model).to(device).train()
    grid, batch = model.backbone.grid, min(config.train_dataloader.batch_size, 64)
    sides = grid.rows * grid.patch[0], grid.cols * grid.patch[1]
    images = torch.randn(batch, grid.channels, *sides, device=device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    for step in range(STEPS + 1):
        if step == 1:  # the first one is slower
            start = time()
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            loss = model.loss(images)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss.item()  # wait for a GPU
    return (time() - start) / STEPS / batch


def images_for(
    configs: dict[str, Config], seeds: int, seconds: float, equal: str, images: int | None = None
) -> dict[str, int]:
    """Return how many images each config sees.

    Args:
        configs: Pretraining configs by name.
        seeds: Runs of each.
        seconds: The whole budget; not used where ``images`` is given.
        equal: ``'images'``: all see the same number; ``'compute'``: the others see as many as cost
            the FLOPs of the first one's.
        images: The number for the first config.
    """
    shares = dict.fromkeys(configs, 1.0)
    if equal == "compute":
        costs = {name: sum(flops(build(config))) for name, config in configs.items()}
        first = next(iter(costs.values()))
        shares = {name: first / cost for name, cost in costs.items()}
    if images is None:
        cost = sum(shares[name] * seconds_per_image(config) for name, config in configs.items())
        images = round(PRETRAINING * seconds / seeds / cost)
    return {
        name: _whole_batches(int(images * shares[name]), config.train_cfg.global_batch)
        for name, config in configs.items()
    }


def _whole_batches(images: int, batch: int) -> int:
    return max(images // batch, 1) * batch


def tune_epochs_for(config: Config, runs: int, labels: int, seconds: float) -> int:
    """Return how many epochs of fine-tuning fit, at the cost of the config's pretraining."""
    if not runs or not labels:
        return 0
    fit = TUNING * seconds / (runs * labels * seconds_per_image(config))
    return max(1, min(MOST_EPOCHS, int(fit)))


def find_config(name: str) -> Path:
    """Return the file of a config, which may be given by the name of a shipped one.

    Raises:
        ValueError: There is no such file and no such shipped config.
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


def read_configs(names: Sequence[str], overrides: Sequence[str]) -> dict[str, Config]:
    """Return pretraining configs by the names of their files.

    Raises:
        ValueError: A file is no pretraining config, or two have one name.
    """
    from xtra_toolkit.visualization.objectives.build import read_config

    paths = [find_config(name) for name in names]
    configs = {path.stem: read_config(path, overrides) for path in paths}
    if len(configs) < len(paths):
        raise ValueError("Two configs have the same file name; runs are told apart by it.")
    return configs
