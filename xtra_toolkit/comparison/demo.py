"""The steps of ``xtra demo``: one small network, few labels, pretrained or not."""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from mmengine.config import Config

from xtra_toolkit.comparison import probes
from xtra_toolkit.comparison.finetuning import classifier_config, fine_tune
from xtra_toolkit.comparison.probes import Labelled
from xtra_toolkit.data import Digits
from xtra_toolkit.data.datasets.packed_images import write_packed

LABELS_PER_CLASS = (10, 30, 100)
DRAWS = 3  # of the labelled images
STEPS = 150  # of each fine-tuning
BATCH_SIZE = 32
LEARNING_RATE = 3e-3
TRAINED, SCRATCH, RAW = "pretrained", "from scratch", "raw pixels"
# for each way of training and each number of labels, the accuracy of each draw in per cent
Accuracies = dict[str, list[list[float]]]


def pack_digits(out: Path) -> Path:
    """Write the digits where fine-tuning reads them, and return the folder."""
    folder = out / "data"
    if not (folder / "test_labels.npy").exists():
        folder.mkdir(parents=True, exist_ok=True)
        for split in ("train", "test"):
            digits = Digits(split)
            samples = [digits.get_data_info(i) for i in range(len(digits))]
            labels = np.array([sample["gt_label"] for sample in samples])
            images = (sample["img"] for sample in samples)
            write_packed(folder, split, images, labels, list(digits.metainfo["classes"]))
    return folder


def draw_labelled(labels: np.ndarray, per_class: int, seed: int) -> list[int]:
    """Return the indices of ``per_class`` images of each class, drawn from a seed."""
    order = np.random.default_rng(seed).permutation(len(labels))
    return [int(i) for c in np.unique(labels) for i in order[labels[order] == c][:per_class]]


def train_with_few_labels(
    config: Config, checkpoint: Path, packed: Path, out: Path, report: Callable[[str], None]
) -> Accuracies:
    """Train with few labels in three ways, and return the accuracies in per cent.

    Args:
        config: The pretraining config.
        checkpoint: The pretrained weights.
        packed: Folder with the packed digits.
        out: Folder for the runs. Finished runs are not repeated.
        report: Called with a line of text after each number of labels.
    """
    train, test = (probes.load_images(config, packed, split) for split in ("train", "test"))
    flat = Labelled(test.x.flatten(1), test.y)
    accuracies: Accuracies = {TRAINED: [], SCRATCH: [], RAW: []}
    processes = get_context("spawn")  # two, since a small network gains nothing from two threads
    with ProcessPoolExecutor(2, processes, initializer=_use_one_thread) as pool:
        for per_class in LABELS_PER_CLASS:
            draws: dict[str, list] = {name: [] for name in accuracies}
            for seed in range(DRAWS):
                chosen = draw_labelled(train.y.numpy(), per_class, seed)
                epochs = math.ceil(STEPS / (len(chosen) // BATCH_SIZE))
                options = dict(rate=LEARNING_RATE, seed=seed, batch=BATCH_SIZE)
                for name, start in ((TRAINED, checkpoint), (SCRATCH, None)):
                    classifier = classifier_config(config, packed, chosen, epochs, start, **options)
                    work = out / "few_labels" / f"{per_class}_{name.replace(' ', '_')}_{seed}"
                    draws[name].append(pool.submit(fine_tune, classifier, work))
                pixels = Labelled(train.x[chosen].flatten(1), train.y[chosen])
                draws[RAW].append(probes.linear(pixels, flat))
            for name in (TRAINED, SCRATCH):
                draws[name] = [run.result() for run in draws[name]]
            for name, values in draws.items():
                accuracies[name].append(values)
            means = ", ".join(f"{name} {mean(values):.1f}" for name, values in draws.items())
            report(f"{per_class} labels a class: {means}")
    return accuracies


def _use_one_thread() -> None:
    torch.set_num_threads(1)


def probe_frozen(config: Config, checkpoint: Path, packed: Path) -> dict[str, tuple[float, float]]:
    """Return linear probe and kNN, with all labels, of both encoders and of the pixels."""
    images = [probes.load_images(config, packed, split) for split in ("train", "test")]
    parts = {RAW: [Labelled(part.x.flatten(1), part.y) for part in images]}
    for name, start in ((TRAINED, checkpoint), (SCRATCH, None)):
        encoder = probes.build_encoder(config, start)
        parts[name] = [probes.pool(probes.tokens_of(encoder, part)) for part in images]
    return {name: (probes.linear(*part), probes.nearest(*part)) for name, part in parts.items()}


def table(accuracies: Accuracies, probed: dict[str, tuple[float, float]]) -> str:
    """Return both tables in Markdown, and a sentence on each comparison."""
    lines = ["| labels a class | " + " | ".join(accuracies) + " |", "|---|---|---|---|"]
    for i, per_class in enumerate(LABELS_PER_CLASS):
        cells = [_spread(values[i]) for values in accuracies.values()]
        lines.append(f"| {per_class} | " + " | ".join(cells) + " |")
    lines += ["", "| frozen features, all labels | linear probe | kNN |", "|---|---|---|"]
    names = {TRAINED: "pretrained encoder", SCRATCH: "random encoder", RAW: RAW}
    for name, label in names.items():
        lines.append(f"| {label} | {probed[name][0]:.1f} | {probed[name][1]:.1f} |")
    return "\n".join([*lines, "", *(verdict(accuracies, other) for other in (SCRATCH, RAW))])


def verdict(accuracies: Accuracies, other: str) -> str:
    """Say at how many labels every draw of pretraining is better, or worse, than every other."""
    pairs = list(zip(LABELS_PER_CLASS, accuracies[TRAINED], accuracies[other], strict=True))
    wins = [str(n) for n, own, others in pairs if min(own) > max(others)]
    losses = [str(n) for n, own, others in pairs if max(own) < min(others)]
    gaps = ", ".join(f"{mean(own) - mean(others):+.1f}" for _, own, others in pairs)
    parts = [f"ahead at {', '.join(wins)} labels a class"] if wins else []
    parts += [f"behind at {', '.join(losses)} labels a class"] if losses else []
    parts = parts or ["within the spread of the draws"]
    return f"Pretraining against {other}: {' and '.join(parts)} ({gaps} points)."


def _spread(values: Sequence[float]) -> str:
    return f"{mean(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def plot(accuracies: Accuracies, target: Path) -> None:
    """Draw the accuracy over the number of labels, a curve for each way of training."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(5, 3.4))
    for name, values in accuracies.items():
        (line,) = axis.plot(LABELS_PER_CLASS, [mean(v) for v in values], "o-", label=name)
        axis.fill_between(
            LABELS_PER_CLASS,
            *zip(*((min(v), max(v)) for v in values), strict=True),
            alpha=0.2,
            color=line.get_color(),
        )
    axis.set_xscale("log")
    axis.set_xticks(LABELS_PER_CLASS, [str(n) for n in LABELS_PER_CLASS])
    axis.minorticks_off()
    axis.set_xlabel("labels a class")
    axis.set_ylabel("accuracy on 500 digits in %")
    axis.grid(alpha=0.4)
    axis.legend()
    figure.tight_layout()
    figure.savefig(target, dpi=130)
    plt.close(figure)
