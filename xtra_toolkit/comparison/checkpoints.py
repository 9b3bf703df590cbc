"""Ask whether the pretraining loss predicts the accuracy, over the checkpoints that runs kept."""

import re
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import load_checkpoint
from mmpretrain.registry import MODELS
from scipy.stats import spearmanr

from xtra_toolkit.comparison import probes
from xtra_toolkit.comparison.results import Results
from xtra_toolkit.evaluation.inference import inference

FEWEST = 3  # points of a rank correlation
LABELS, TESTED = 2000, 5000  # images that the linear probe learns from and is tested on
BATCH = 250


def kept_checkpoints(work: Path) -> dict[int, Path]:
    """Return the checkpoints of a run by their step or epoch, in rising order.

    If several are less than a twentieth of the run apart, only the last of them is returned.
    """
    found = {}
    for path in work.glob("*.pth"):
        if number := re.fullmatch(r"(?:iter|epoch)_(\d+)", path.stem):
            found[int(number[1])] = path
    kept: dict[int, Path] = {}
    for step in sorted(found, reverse=True):
        if not kept or min(kept) - step > max(found) / 20:
            kept[step] = found[step]
    return dict(sorted(kept.items()))


def measure_checkpoint(
    config: Config, checkpoint: Path, train: probes.Labelled, test: probes.Labelled
) -> dict[str, float]:
    """Return the validation loss and the accuracy of a linear probe in per cent.

    Args:
        config: The pretraining config.
        checkpoint: Weights of the whole model.
        train: Images (N, C, H, W) that the probe learns from.
        test: Images that both are measured on.
    """
    init_default_scope("mmpretrain")
    model = MODELS.build(config.model).eval()
    load_checkpoint(model, str(checkpoint), map_location="cpu", strict=True)
    torch.manual_seed(0)
    total = 0.0
    with inference(model):
        for images in test.x.split(BATCH):
            total += float(model.predict(images)[0].pretrain_loss) * len(images)
    encoder = probes.build_encoder(config, checkpoint)
    pooled = [probes.pool(probes.tokens_of(encoder, part)) for part in (train, test)]
    accuracy = probes.linear(*pooled)
    return dict(loss=round(total / len(test.y), 5), linear=round(accuracy, 2))


def correlation_sentences(results: Results) -> list[str]:
    """State the rank correlation of loss and accuracy of each objective, over all its runs."""
    lines = []
    for name in results.state["plan"]["images"]:
        runs = [run for run in results.state["runs"] if run["name"] == name]
        runs = [run["checkpoints"] for run in runs if run.get("checkpoints")]
        points = [point for run in runs for point in run]
        if len(points) >= FEWEST:
            losses, accuracies = ([point[key] for point in points] for key in ("loss", "linear"))
            value = f"{spearmanr(losses, accuracies).statistic:+.2f}".replace("-", "−")
            lines.append(
                f"{name}: {value} over {len(points)} checkpoints of {len(runs)} "
                f"{'run' if len(runs) == 1 else 'runs'}; loss {max(losses):.3f} to "
                f"{min(losses):.3f}, accuracy {min(accuracies):.1f} to {max(accuracies):.1f} %."
            )
    return lines
