"""The demo: pretrain a small XTRA on digits, probe it, and say how that compares.

    make demo

Runs three times what a user would type, ``mim train mmpretrain CONFIG``, and prints a table.
"""

import json
import subprocess
import sys
from pathlib import Path

HERE, WORK = Path(__file__).parent, Path("work_dirs/demo")


def mim(config: str, *options: str) -> Path:
    """Run ``mim train mmpretrain``; the working folder, its output in ``train.log`` there."""
    work = WORK / config
    work.mkdir(parents=True, exist_ok=True)
    command = [f"{Path(sys.executable).parent}/mim", "train", "mmpretrain"]
    command += [f"{HERE / config}.py", "--work-dir", str(work), *options]
    print("$ mim " + " ".join(command[1:]), flush=True)
    with open(work / "train.log", "w") as log:
        if subprocess.run(command, stdout=log, stderr=subprocess.STDOUT).returncode:
            sys.exit(f"that failed; the last lines of {work / 'train.log'} say why")
    return work


def accuracy(work: Path) -> float:
    """The last validation accuracy in per cent, from what MMEngine's logger wrote."""
    newest = max(work.glob("*/vis_data/scalars.json"))
    lines = [json.loads(line) for line in newest.read_text().splitlines()]
    return next(line["accuracy/top1"] for line in reversed(lines) if "accuracy/top1" in line)


def raw_pixels() -> float:
    """A logistic regression on standardised pixels, in per cent."""
    import numpy as np
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from xtra_toolkit.data import Digits

    (x, y), (test_x, test_y) = (
        (
            np.stack([sample["img"].flatten() for sample in data]),
            [sample["gt_label"] for sample in data],
        )
        for data in (Digits("train"), Digits("test"))
    )
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(x, y)
    return 100 * probe.score(test_x, test_y)


def main() -> None:
    """Pretrain, probe twice, print."""
    pretraining = mim("xtra_digits")
    checkpoint = pretraining / (pretraining / "last_checkpoint").read_text()
    option = f"model.backbone.init_cfg.checkpoint={checkpoint}"
    trained = accuracy(mim("probe_digits", "--cfg-options", option))
    floor = accuracy(mim("probe_digits_random"))
    print(
        f"\nLinear probe on 500 digits (± 2 points)\n\n"
        f"| features                        | accuracy |\n"
        f"|---------------------------------|----------|\n"
        f"| XTRA encoder, pretrained        | {trained:6.1f} % |\n"
        f"| the same encoder, random        | {floor:6.1f} % |\n"
        f"| raw pixels, no encoder          | {raw_pixels():6.1f} % |\n\n"
        f"The pretrained encoder gains {trained - floor:.1f} points over a random one; it does\n"
        f"not beat raw pixels on images this small. A proof of life, not a benchmark.\n\n"
        f"checkpoint: {checkpoint}\n"
        f"logs:       {WORK}/*/train.log"
    )
    if trained - floor < 15:
        sys.exit("the gain over a random encoder is below 15 points: something is wrong")


if __name__ == "__main__":
    main()
