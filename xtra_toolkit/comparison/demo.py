"""The demo: the same small network, the same few labels, pretrained or not."""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import numpy as np
from mmengine.config import Config

from xtra_toolkit.comparison import probes
from xtra_toolkit.comparison.finetuning import classifier_config, fine_tune
from xtra_toolkit.comparison.probes import Labelled
from xtra_toolkit.data import Digits
from xtra_toolkit.data.datasets.packed_images import write_packed

LABELS = (10, 30, 100)  # a class
DRAWS = 3
STEPS = 150  # of each fine-tuning
BATCH = 32
RATE = 3e-3
TRAINED, SCRATCH, RAW = "pretrained", "from scratch", "raw pixels"
Curves = dict[str, list[list[float]]]  # by way of training: for each number of labels, the draws


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


def draw(labels: np.ndarray, a_class: int, seed: int) -> list[int]:
    """Return the places of so many images of each class, drawn from a seed."""
    order = np.random.default_rng(seed).permutation(len(labels))
    return [int(i) for c in np.unique(labels) for i in order[labels[order] == c][:a_class]]


def few_labels(config: Config, checkpoint: Path, packed: Path, out: Path, say: object) -> Curves:
    """Train with few labels in three ways, and return the accuracies in per cent.

    Args:
        config: The pretraining config.
        checkpoint: What it led to.
        packed: The digits.
        out: Folder for the runs; those that are finished are not run again.
        say: Called with a line on each number of labels.
    """
    train, test = (probes.load_images(config, packed, split) for split in ("train", "test"))
    flat = Labelled(test.x.flatten(1), test.y)
    curves: Curves = {TRAINED: [], SCRATCH: [], RAW: []}
    for a_class in LABELS:
        found: dict[str, list[float]] = {name: [] for name in curves}
        for seed in range(DRAWS):
            chosen = draw(train.y.numpy(), a_class, seed)
            epochs = -(-STEPS // (len(chosen) // BATCH))
            given = dict(rate=RATE, seed=seed, batch=BATCH)
            for name, start in ((TRAINED, checkpoint), (SCRATCH, None)):
                made = classifier_config(config, packed, chosen, epochs, start, **given)
                work = out / "few_labels" / f"{a_class}_{name.replace(' ', '_')}_{seed}"
                found[name].append(fine_tune(made, work))
            pixels = Labelled(train.x[chosen].flatten(1), train.y[chosen])
            found[RAW].append(probes.linear(pixels, flat))
        for name, accuracies in found.items():
            curves[name].append(accuracies)
        say(
            f"{a_class} labels a class: "
            + ", ".join(f"{n} {mean(a):.1f}" for n, a in found.items())
        )
    return curves


def frozen(config: Config, checkpoint: Path, packed: Path) -> dict[str, tuple[float, float]]:
    """Return linear probe and kNN, with all labels, of both encoders and of the pixels."""
    images = [probes.load_images(config, packed, split) for split in ("train", "test")]
    parts = {RAW: [Labelled(part.x.flatten(1), part.y) for part in images]}
    for name, start in ((TRAINED, checkpoint), (SCRATCH, None)):
        encoder = probes.build_encoder(config, start)
        parts[name] = [probes.pool(probes.tokens_of(encoder, part)) for part in images]
    return {name: (probes.linear(*part), probes.nearest(*part)) for name, part in parts.items()}


def table(curves: Curves, probed: dict[str, tuple[float, float]]) -> str:
    """Return both tables in Markdown, and what they say in a sentence."""
    lines = ["| labels a class | " + " | ".join(curves) + " |", "|---|---|---|---|"]
    for i, a_class in enumerate(LABELS):
        cells = [_spread(values[i]) for values in curves.values()]
        lines.append(f"| {a_class} | " + " | ".join(cells) + " |")
    lines += ["", "| frozen features, all labels | linear probe | kNN |", "|---|---|---|"]
    names = {TRAINED: "pretrained encoder", SCRATCH: "random encoder", RAW: RAW}
    for name, label in names.items():
        lines.append(f"| {label} | {probed[name][0]:.1f} | {probed[name][1]:.1f} |")
    return "\n".join([*lines, "", *(verdict(curves, other) for other in (SCRATCH, RAW))])


def verdict(curves: Curves, other: str) -> str:
    """Say where pretraining wins against another way: where all its draws are better."""
    pairs = list(zip(LABELS, curves[TRAINED], curves[other], strict=True))
    wins = [str(n) for n, own, others in pairs if min(own) > max(others)]
    losses = [str(n) for n, own, others in pairs if max(own) < min(others)]
    gaps = ", ".join(f"{mean(own) - mean(others):+.1f}" for _, own, others in pairs)
    said = [f"ahead at {', '.join(wins)} labels a class"] if wins else []
    said += [f"behind at {', '.join(losses)}"] if losses else []
    said = said or ["within the spread of the draws"]
    return f"Pretraining against {other}: {' and '.join(said)} ({gaps} points)."


def _spread(values: Sequence[float]) -> str:
    return f"{mean(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def plot(curves: Curves, target: Path) -> None:
    """Draw the accuracy over the number of labels, a curve for each way of training."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(5, 3.4))
    for name, values in curves.items():
        (line,) = axis.plot(LABELS, [mean(v) for v in values], "o-", label=name)
        axis.fill_between(
            LABELS,
            *zip(*((min(v), max(v)) for v in values), strict=True),
            alpha=0.2,
            color=line.get_color(),
        )
    axis.set_xscale("log")
    axis.set_xticks(LABELS, [str(n) for n in LABELS])
    axis.minorticks_off()
    axis.set_xlabel("labels a class")
    axis.set_ylabel("accuracy on 500 digits in %")
    axis.grid(alpha=0.4)
    axis.legend()
    figure.tight_layout()
    figure.savefig(target, dpi=130)
    plt.close(figure)
