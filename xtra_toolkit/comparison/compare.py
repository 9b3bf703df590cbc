"""The loop of ``xtra compare``: pretrain, probe and fine-tune, one after the other, resumably."""

import json
import signal
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import click
import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger

from xtra_toolkit.comparison import plan as planning
from xtra_toolkit.comparison import probes
from xtra_toolkit.comparison.finetuning import classifier_config, fine_tune
from xtra_toolkit.comparison.images import name_of, pack
from xtra_toolkit.comparison.plan import Plan
from xtra_toolkit.comparison.pretraining import FOLDER, PACKED, pretrain, run_options
from xtra_toolkit.comparison.report import write_report
from xtra_toolkit.comparison.results import RANDOM, RAW, SCRATCH, Results, about_machine

FULL = dict(type="xtra_toolkit.Bidirectional")


@dataclass
class Comparison:
    """Runs what a plan says and the results do not hold yet.

    Args:
        configs: Pretraining configs by name; the first one's encoder is the reference.
        plan: What to run.
        packed: Folder of packed images for each config.
        folder: The images as files, for configs that read files; None where there are none.
        count: Images of the training set.
        out: Receives runs, results and report.
        results: Kept in ``out``.
        own: ``KEY=VALUE`` options of the user, for pretraining.
    """

    configs: dict[str, Config]
    plan: Plan
    packed: dict[str, Path]
    folder: Path | None
    count: int
    out: Path
    results: Results
    own: Sequence[str] = field(default_factory=tuple)

    def run(self) -> None:
        """Measure the references, then seed after seed each objective."""
        self.raw_pixels()
        for seed in range(self.plan.seeds):
            self.random_encoder(seed)
            for name in self.configs:
                self.objective(name, seed)
            for labels in self.plan.tune_labels:
                self.from_scratch(seed, labels)
                for name in self.configs:
                    self.tune(name, seed, labels, self.configs[name], self.checkpoint(name, seed))
                self.from_scratch(seed, labels, FULL)

    def checkpoint(self, name: str, seed: int) -> Path:
        """Pretrain, unless that is done, and return the checkpoint."""
        work = self.out / "runs" / f"{name}_seed{seed}"
        work.mkdir(parents=True, exist_ok=True)
        data = {PACKED: str(self.packed[name].absolute())}
        if self.folder:
            data[FOLDER] = str(self.folder.absolute())
        config, images = self.configs[name], self.plan.images[name]
        options = run_options(config, data, self.count, images, work)
        options["randomness.seed"] = seed
        found = pretrain(Path(config.filename), work, options, self.own)
        minutes = round(float((work / "seconds.txt").read_text()) / 60, 1)
        self.store(name, seed, images=images, minutes=minutes)
        return found

    def objective(self, name: str, seed: int) -> None:
        """Pretrain and probe one config with one seed."""
        checkpoint = self.checkpoint(name, seed)
        if "attentive" not in self.results.of(name, seed):
            encoder = probes.build_encoder(self.configs[name], checkpoint)
            self.probe(name, seed, encoder, name)

    def random_encoder(self, seed: int) -> None:
        """Probe the first config's encoder with random weights."""
        if "attentive" not in self.results.of(RANDOM, seed):
            first = next(iter(self.configs))
            encoder = probes.build_encoder(self.configs[first], None, seed)
            self.probe(RANDOM, seed, encoder, first)

    def probe(self, name: str, seed: int, encoder: torch.nn.Module, config: str) -> None:
        """Probe a frozen encoder in three ways."""
        tokens = [probes.tokens_of(encoder, images) for images in self.labelled(config)]
        pooled = [probes.pool(part) for part in tokens]
        self.store(name, seed, linear=probes.linear(*pooled), nearest=probes.nearest(*pooled))
        heads = encoder.layers[0].attn.num_heads
        self.store(name, seed, attentive=probes.attentive(*tokens, heads=heads))

    def raw_pixels(self) -> None:
        """Probe the pixels themselves, as the first config normalises them."""
        if "nearest" not in self.results.of(RAW, 0):
            images = self.labelled(next(iter(self.configs)))
            flat = [probes.Labelled(part.x.flatten(1), part.y) for part in images]
            self.store(RAW, 0, linear=probes.linear(*flat), nearest=probes.nearest(*flat))

    def labelled(self, name: str) -> list[probes.Labelled]:
        """Return the training and the test images of the probes, as a config normalises them."""
        config, packed = self.configs[name], self.packed[name]
        counts = dict(train=self.plan.labels, test=None)
        return [probes.load_images(config, packed, split, n) for split, n in counts.items()]

    def from_scratch(self, seed: int, labels: int, mask: dict | None = None) -> None:
        """Train the first config's encoder with labels alone, under its mask or another."""
        first, config = next(iter(self.configs.items()))
        name = f"{first}'s mask" if mask is None else "full attention"
        if config.model.mask != mask:
            self.tune(f"{SCRATCH}, {name}", seed, labels, config, None, mask)

    def tune(
        self,
        name: str,
        seed: int,
        labels: int,
        config: Config,
        checkpoint: Path | None,
        mask: dict | None = None,
    ) -> None:
        """Fine-tune with the first so many labels, and record the accuracy."""
        tuned = dict(self.results.of(name, seed).get("tuned", {}))
        if str(labels) in tuned:
            return
        packed = self.packed[Path(config.filename).stem]
        epochs, rate = self.plan.epochs_for(labels), self.plan.tune_rate
        given = dict(epochs=epochs, rate=rate, seed=seed, mask=mask)
        made = classifier_config(config, packed, np.arange(labels), checkpoint=checkpoint, **given)
        slug = name.replace(" ", "-").replace(",", "").replace("'s", "")
        tuned[str(labels)] = fine_tune(made, self.out / "runs" / f"tuned{labels}_{slug}_seed{seed}")
        self.store(name, seed, tuned=tuned)

    def store(self, name: str, seed: int, **values: object) -> None:
        """Record values, say them, and write the report again."""
        rounded = {k: round(v, 2) if isinstance(v, float) else v for k, v in values.items()}
        known = self.results.of(name, seed)
        if any(known.get(key) != value for key, value in rounded.items()):
            click.echo(f"{name}, seed {seed}: " + ", ".join(f"{k} {v}" for k, v in rounded.items()))
            self.results.record(name, seed, **rounded)
            write_report(self.results, self.out / "compare")


def start(
    names: Sequence[str],
    data: str,
    out: Path,
    budget: str = "2h",
    images: int | None = None,
    equal: str = "images",
    seeds: int = 2,
    labels: int = 10_000,
    tune: Sequence[float] = (0.1,),
    tune_epochs: int | None = None,
    own: Sequence[str] = (),
) -> Comparison:
    """Pack the images, plan the runs and return the comparison, or go on with the one in ``out``.

    The arguments are those of ``xtra compare``.

    Raises:
        ValueError: ``out`` holds another comparison; or a config, the data or the budget is none.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a run then saves, as on Ctrl-C
    MMLogger.get_instance("compare", log_level="ERROR")
    configs = planning.read_configs(names, own)
    seconds = planning.parse_duration(budget)
    out.mkdir(parents=True, exist_ok=True)
    packed = {name: _packed(config, data, out, labels) for name, config in configs.items()}
    first = next(iter(configs))
    counts = json.loads((packed[first] / "packed.json").read_text())["images"]
    have, tested = (len(np.load(packed[first] / f"{s}_labels.npy")) for s in ("train", "test"))
    stored = Results(out / "compare.json").state.get("plan") or {}
    images = stored.get("images", {}).get(first, images)
    tune_labels = [] if tune_epochs == 0 else sorted({round(s * counts["train"]) for s in tune})
    if tune_labels and tune_labels[-1] > have:
        raise ValueError(
            f"Fine-tuning with {tune_labels[-1]:,} labels was asked for, and {have:,} images are "
            f"packed; give --labels {tune_labels[-1]} or a smaller share with --tune."
        )
    if tune_epochs is None:
        tune_epochs = stored.get("tune_epochs") or planning.tune_epochs_for(
            configs[first], (len(configs) + 2) * seeds, sum(tune_labels), seconds
        )
    plan = Plan(
        data=name_of(data),
        seeds=seeds,
        images=planning.images_for(configs, seeds, seconds, equal, images),
        labels=min(labels, counts["train"]),
        tune_labels=tune_labels,
        tune_epochs=tune_epochs,
    )
    if stored:
        plan.check(stored, out)
    command = ["xtra compare", *names, "--data", plan.data, f"--seeds {seeds}"]
    command += [f"--equal {equal} --images {plan.images[first]} --labels {plan.labels}"]
    command += [f"--tune {share:g}" for share in tune] + [f"--tune-epochs {tune_epochs}"]
    command += [f"-o {option}" for option in own]
    about = dict(about_machine(), tested=tested, command=" ".join(command))
    results = Results(out / "compare.json", plan=asdict(plan), **about)
    results.state |= dict(about, plan=asdict(plan))
    folder = Path(data).expanduser() / "train"
    folder = folder if folder.is_dir() else None
    return Comparison(configs, plan, packed, folder, counts["train"], out, results, own)


def _packed(config: Config, data: str, out: Path, labels: int) -> Path:
    """Pack what a config needs: all images, or those of the probes where it reads files itself."""
    size, channels = config.model.backbone.img_size, config.model.backbone.get("in_channels", 3)
    whole = config.train_dataloader.dataset.type == PACKED
    return pack(
        data, out / "data", size, channels, {} if whole else dict(train=labels, test=labels)
    )
