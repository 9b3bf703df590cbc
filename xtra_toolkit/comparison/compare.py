"""The loop of ``xtra compare``: pretrain, probe and fine-tune, and resume what was stopped."""

import json
import shlex
import signal
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger

from xtra_toolkit.comparison import plan as planning
from xtra_toolkit.comparison import probes
from xtra_toolkit.comparison.blocks import block_size
from xtra_toolkit.comparison.checkpoints import (
    LABELS,
    TESTED,
    kept_checkpoints,
    measure_checkpoint,
)
from xtra_toolkit.comparison.finetuning import classifier_config, fine_tune
from xtra_toolkit.comparison.images import name_of, pack
from xtra_toolkit.comparison.plan import Plan
from xtra_toolkit.comparison.pretraining import (
    FOLDER,
    PACKED,
    check_run,
    pretrain,
    run_options,
)
from xtra_toolkit.comparison.report import write_report
from xtra_toolkit.comparison.results import RANDOM, RAW, SCRATCH, Results, about_machine

FULL_ATTENTION = dict(type="xtra_toolkit.Bidirectional")


@dataclass
class Comparison:
    """Run what a plan contains and the results do not hold yet.

    Args:
        configs: Pretraining configs by name. The encoder of the first one is the reference.
        plan: What to run.
        packed: Folder of packed images for each config.
        folder: The training images as files, for configs that read files. None if there are none.
        count: Number of images in the training set.
        out: Folder that receives runs, results and report.
        results: Results, stored in ``out``.
    """

    configs: dict[str, Config]
    plan: Plan
    packed: dict[str, Path]
    folder: Path | None
    count: int
    out: Path
    results: Results

    def run(self) -> None:
        """Measure the references, then all objectives with one seed after the other.

        SIGTERM is an interrupt meanwhile, on which a run saves.
        """
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            self._measure()
        finally:
            signal.signal(signal.SIGTERM, before)

    def _measure(self) -> None:
        self.raw_pixels()
        for seed in range(self.plan.seeds):
            self.random_encoder(seed)
            for name in self.configs:
                self.objective(name, seed)
            for labels in self.plan.tune_labels:
                self.from_scratch(seed, labels)
                for name, config in self.configs.items():
                    if not self.is_tuned(name, seed, labels):
                        self.tune(name, seed, labels, config, self.checkpoint(name, seed))
                self.from_scratch(seed, labels, FULL_ATTENTION)

    def checkpoint(self, name: str, seed: int) -> Path:
        """Pretrain a config, unless that is done, and return the checkpoint."""
        work = self.run_folder(name, seed)
        work.mkdir(parents=True, exist_ok=True)
        roots = {PACKED: str(self.packed[name].absolute())}
        if self.folder:
            roots[FOLDER] = str(self.folder.absolute())
        config, images = self.configs[name], self.plan.images[name]
        options = run_options(config, roots, self.count, images, work)
        options["randomness.seed"] = seed
        path = pretrain(Path(config.filename), work, options, self.plan.options[name])
        minutes = round(float((work / "seconds.txt").read_text()) / 60, 1)
        self.store(name, seed, images=images, minutes=minutes)
        return path

    def objective(self, name: str, seed: int) -> None:
        """Pretrain and probe one config with one seed, unless that was done."""
        if "attentive" not in self.results.of(name, seed):
            encoder = probes.build_encoder(self.configs[name], self.checkpoint(name, seed))
            self.probe(name, seed, encoder, name)
        self.measure_checkpoints(name, seed)

    def measure_checkpoints(self, name: str, seed: int) -> None:
        """Measure loss and accuracy of all checkpoints, if the run kept several."""
        kept = kept_checkpoints(self.run_folder(name, seed))
        if len(kept) > 1 and "checkpoints" not in self.results.of(name, seed):
            train, test = self.labelled(name)
            train, test = train.first(LABELS), test.first(TESTED)
            config = self.configs[name]
            points = [
                dict(step=step, **measure_checkpoint(config, path, train, test))
                for step, path in kept.items()
            ]
            self.store(name, seed, checkpoints=points)

    def random_encoder(self, seed: int) -> None:
        """Probe the encoder of the first config with random weights."""
        if "attentive" not in self.results.of(RANDOM, seed):
            first = next(iter(self.configs))
            encoder = probes.build_encoder(self.configs[first], None, seed)
            self.probe(RANDOM, seed, encoder, first)

    def probe(self, name: str, seed: int, encoder: torch.nn.Module, config_name: str) -> None:
        """Probe a frozen encoder by logistic regression, kNN and the attentive probe."""
        tokens = [probes.tokens_of(encoder, images) for images in self.labelled(config_name)]
        pooled = [probes.pool(part) for part in tokens]
        self.store(name, seed, linear=probes.linear(*pooled), nearest=probes.nearest(*pooled))
        heads = encoder.layers[0].attn.num_heads
        self.store(name, seed, attentive=probes.attentive(*tokens, heads=heads))

    def raw_pixels(self) -> None:
        """Probe the pixels themselves, normalised as in the first config."""
        if "nearest" not in self.results.of(RAW, 0):
            images = self.labelled(next(iter(self.configs)))
            flat = [probes.Labelled(part.x.flatten(1), part.y) for part in images]
            self.store(RAW, 0, linear=probes.linear(*flat), nearest=probes.nearest(*flat))

    def labelled(self, name: str) -> list[probes.Labelled]:
        """Return the training and the test images of the probes, normalised as in a config."""
        config, packed = self.configs[name], self.packed[name]
        counts = dict(train=self.plan.labels, test=None)
        return [probes.load_images(config, packed, split, n) for split, n in counts.items()]

    def from_scratch(self, seed: int, labels: int, mask: dict | None = None) -> None:
        """Train the encoder of the first config with labels alone, under its mask or another."""
        first, config = next(iter(self.configs.items()))
        mask_name = f"{first}'s mask" if mask is None else "full attention"
        if config.model.mask != mask:
            self.tune(f"{SCRATCH}, {mask_name}", seed, labels, config, None, mask)

    def tune(
        self,
        name: str,
        seed: int,
        labels: int,
        config: Config,
        checkpoint: Path | None,
        mask: dict | None = None,
    ) -> None:
        """Fine-tune with the first ``labels`` training images, and store the accuracy."""
        if self.is_tuned(name, seed, labels):
            return
        first = next(iter(self.configs))  # whose encoder is trained from scratch
        packed = self.packed.get(name, self.packed[first])
        epochs = planning.epochs_for(labels, self.plan.tune_labels, self.plan.tune_epochs)
        options = dict(checkpoint=checkpoint, mask=mask, rate=self.plan.tune_rate, seed=seed)
        classifier = classifier_config(config, packed, np.arange(labels), epochs, **options)
        work = self.run_folder(f"tuned{labels}_{name}", seed)
        accuracy = round(fine_tune(classifier, work), 2)
        tuned = self.results.of(name, seed).get("tuned", {})
        self.store(name, seed, tuned=tuned | {str(labels): accuracy})

    def run_folder(self, name: str, seed: int) -> Path:
        """Return the folder of a run."""
        return self.out / "runs" / f"{planning.folder_name(name)}_seed{seed}"

    def is_tuned(self, name: str, seed: int, labels: int) -> bool:
        """Return whether the result of a fine-tuning run is stored."""
        return str(labels) in self.results.of(name, seed).get("tuned", {})

    def store(self, name: str, seed: int, **values: object) -> None:
        """Record values that are new, print them, and write the report again."""
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
    overrides: Sequence[str] = (),
    variations: Sequence[str] = (),
    held_out: int = 0,
) -> Comparison:
    """Pack the images, plan the runs and return the comparison, or resume the one in ``out``.

    The arguments are those of ``xtra compare``.

    Raises:
        ValueError: ``out`` holds another comparison; a config, the data or the budget is invalid;
            fine-tuning needs more labels than there are packed images; or images are held out and
            a config reads files, among which they are.
    """
    MMLogger.get_instance("compare", log_level="ERROR")
    rows = planning.options_of_rows(names, overrides, variations)
    configs = planning.read_configs(rows)
    costs = {name: _cost(name, config) for name, config in configs.items()}
    for config in configs.values() if held_out else ():
        _check_reads_packed(config)
    seconds = planning.parse_duration(budget)
    out.mkdir(parents=True, exist_ok=True)
    packing = (data, out, labels, held_out)
    packed = {name: _pack_for(config, *packing) for name, config in configs.items()}
    first = next(iter(configs))
    count = json.loads((packed[first] / "packed.json").read_text())["images"]["train"]
    available, tested = (len(np.load(packed[first] / f"{s}_labels.npy")) for s in ("train", "test"))
    stored = Results(out / "compare.json").state.get("plan") or {}
    images = stored.get("images", {}).get(first, images)
    tune_labels = [] if tune_epochs == 0 else _tune_labels(tune, count, available)
    if tune_epochs is None:
        tune_epochs = stored.get("tune_epochs") or planning.tune_epochs_for(
            configs[first], (len(configs) + 2) * seeds, tune_labels, seconds
        )
    plan = Plan(
        data=name_of(data),
        seeds=seeds,
        images=planning.images_for(configs, seeds, seconds, equal, images),
        labels=min(labels, count),
        tune_labels=tune_labels,
        tune_epochs=tune_epochs,
        held_out=held_out,
        options={name: options for name, (_, options) in rows.items()},
    )
    if stored:
        plan.check(stored, out)
    folder = Path(data).expanduser() / "train"
    folder = folder if folder.is_dir() else None
    datasets = (PACKED, FOLDER) if folder else (PACKED,)
    for name, config in configs.items():
        check_run(config, datasets, count, plan.images[name])
    about = dict(
        about_machine(),
        tested=tested,
        command=_command(names, plan, equal, tune, overrides, variations),
        plan=asdict(plan),
        mflops={name: round(model / 3e6) for name, (model, _) in costs.items()},
        target_mflops={name: round(target / 1e6) for name, (_, target) in costs.items() if target},
        block_sizes={n: size for n, config in configs.items() if (size := block_size(config))},
    )
    results = Results(out / "compare.json", **about)
    results.state |= about
    return Comparison(configs, plan, packed, folder, count, out, results)


def _cost(name: str, config: Config) -> tuple[int, int]:
    """Return the FLOPs of training with one image, or say which row cannot be built."""
    try:
        return planning.training_flops(config)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"The model of {name} cannot be built: {error}") from error


def _check_reads_packed(config: Config) -> None:
    if config.train_dataloader.dataset.type != PACKED:
        raise ValueError(
            f"{config.filename} reads image files, so its pretraining would see the images that "
            "are held out. Hold out none, or give configs that read packed images, such as those "
            "of mmconfigs/small."
        )


def _tune_labels(shares: Sequence[float], count: int, available: int) -> list[int]:
    """Return the numbers of labels of the fine-tuning runs, in rising order.

    Args:
        shares: Shares of the training images.
        count: Number of training images.
        available: Number of training images that are packed.
    """
    labels = sorted({round(share * count) for share in shares})
    if labels and labels[-1] > available:
        raise ValueError(
            f"Fine-tuning with {labels[-1]:,} labels was asked for, and {available:,} images are "
            f"packed; give --labels {labels[-1]} or a smaller share with --tune."
        )
    return labels


def _command(
    names: Sequence[str],
    plan: Plan,
    equal: str,
    tune: Sequence[float],
    overrides: Sequence[str],
    variations: Sequence[str],
) -> str:
    """Return the command that repeats a comparison."""
    images = next(iter(plan.images.values()))
    options = [f"--data {plan.data} --seeds {plan.seeds} --equal {equal} --images {images}"]
    options += [f"--labels {plan.labels}", *(f"--tune {share:g}" for share in tune)]
    options += [f"--tune-epochs {plan.tune_epochs}", *(f"-o {shlex.quote(o)}" for o in overrides)]
    options += [f"--vary {shlex.quote(v)}" for v in variations]
    options += [f"--hold-out {plan.held_out}"] if plan.held_out else []
    return " ".join(["xtra compare", *names, *options])


def _pack_for(config: Config, data: str, out: Path, labels: int, held_out: int) -> Path:
    """Pack all images, or only those of the probes if the config reads image files."""
    size, channels = config.model.backbone.img_size, config.model.backbone.get("in_channels", 3)
    reads_packed = config.train_dataloader.dataset.type == PACKED
    limits = {} if reads_packed else dict(train=labels, test=labels)
    return pack(data, out / "data", size, channels, limits, held_out)
