"""XTRA, AIM and MAE beside each other on Fashion-MNIST: same encoder, same number of images.

From BUDGET=480 on also at equal compute: as many images as cost the FLOPs of XTRA's.

    make compare                                  # BUDGET=60 minutes on two CPU cores
    make compare BUDGET=480 DATA=/path/to/folder  # with its four idx files, packed or not

Nothing is downloaded: Debian has the data as the package dataset-fashion-mnist. Runs that are
finished are not run again. Writes table.md, results.csv and plot.png to work_dirs/compare.
"""

import csv
import gzip
import os
import subprocess
import sys
from pathlib import Path
from time import time

import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmpretrain.registry import DATASETS, MODELS
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from xtra_toolkit.show.build import build
from xtra_toolkit.show.cost import flops

HERE, WORK = Path(__file__).parent, Path("work_dirs/compare").absolute()
BUDGET = os.environ.get("BUDGET", "60")
if not BUDGET.isdigit() or int(BUDGET) < 5:
    sys.exit(f"BUDGET={BUDGET} was given; it is minutes on two CPU cores, 5 or more")
BUDGET = int(BUDGET)
DATA = Path(os.environ.get("DATA", "/usr/share/datasets/fashion-mnist"))
FILES = [f"{s}-{k}-ubyte" for s in ("train", "t10k") for k in ("images-idx3", "labels-idx1")]
LABELLED = 10_000  # images that a probe learns from, and as many that it is tested on
RATES = dict(xtra=2e-3, aim=2e-3, mae=2e-3, aim_prefix=2e-3)  # peak, of 64 images
FULL = dict(type="xtra_toolkit.Bidirectional")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # of the probes, in float32
RUN = ("objective", "attention", "seed", "rate", "images", "epochs", "seconds")
ROW = (*RUN, "linear", "attentive")


def plan() -> list[dict]:
    """The runs of a budget: objective, seed, learning rate, images."""
    if BUDGET < 480:
        images = 30_016 * BUDGET // 60 // 64 * 64
        return [
            dict(objective=o, seed=s, rate=RATES[o], images=images)
            for s in range(2)
            for o in ("xtra", "aim", "mae")
        ]
    images = min(60_000, 110 * BUDGET) // 64 * 64  # 26 runs, at the minutes of docs/compare.md
    runs = [
        dict(objective=o, seed=0, rate=RATES[o] * factor, images=images)
        for o in RATES
        for factor in (0.5, 2)
    ]
    runs += [
        dict(objective=o, seed=s, rate=RATES[o], images=images) for s in range(3) for o in RATES
    ]
    return runs + [
        dict(objective=o, seed=s, rate=RATES[o], images=equal(images, o))
        for s in range(2)
        for o in RATES
        if o != "xtra"
    ]


def equal(images: int, objective: str) -> int:
    """How many images cost as much as ``images`` do XTRA, in FLOPs; whole batches in each epoch."""
    models = (build(Config.fromfile(HERE / f"{name}.py")) for name in ("xtra", objective))
    xtra, other = (sum(flops(model)) for model in models)
    count = images * xtra // other
    batches = 64 * -(-count // 60_000)
    return count // batches * batches


def unpack() -> Path:
    """The four files where MMPretrain's FashionMNIST reads them."""
    target = WORK / "data"
    target.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        packed, plain = DATA / f"{name}.gz", DATA / name
        if not (packed.exists() or plain.exists()):
            sys.exit(
                f"{DATA} holds no {name}, packed (.gz) or not. Install Debian's package "
                "dataset-fashion-mnist, or name a folder: make compare DATA=/path"
            )
        content = gzip.decompress(packed.read_bytes()) if packed.exists() else plain.read_bytes()
        (target / name).write_bytes(content)
    return target


def pretrain(data: Path, objective: str, seed: int, rate: float, images: int) -> tuple[Path, float]:
    """Run ``mim train mmpretrain``; the checkpoint, and the seconds that it took."""
    work = WORK / f"{objective}_seed{seed}_lr{rate:g}_{images}"
    work.mkdir(parents=True, exist_ok=True)
    took, epochs = work / "seconds.txt", -(-images // 60_000)
    if not took.exists():
        start, command = time(), [f"{Path(sys.executable).parent}/mim", "train", "mmpretrain"]
        command += [f"{HERE / objective}.py", "--work-dir", str(work), "--cfg-options"]
        command += [f"randomness.seed={seed}", f"optim_wrapper.optimizer.lr={rate}"]
        command += [f"train_dataloader.dataset.data_root={data}"]
        command += [f"train_dataloader.dataset.indices={images // epochs}"]
        command += [f"train_cfg.max_epochs={epochs}", f"param_scheduler.1.end={epochs}"]
        print("$ mim " + " ".join(command[1:]), flush=True)
        with open(work / "train.log", "w") as log:
            if subprocess.run(command, stdout=log, stderr=subprocess.STDOUT).returncode:
                sys.exit(f"that failed; the last lines of {work / 'train.log'} say why")
        took.write_text(str(time() - start))
    return work / (work / "last_checkpoint").read_text(), float(took.read_text())


def labelled(data: Path) -> tuple[tuple[Tensor, np.ndarray], ...]:
    """Images (N, 1, 32, 32), normalised, and labels, to learn from and to test on."""
    config = Config.fromfile(HERE / "xtra.py")
    (mean,), (std,) = (config.model.data_preprocessor[name] for name in ("mean", "std"))
    parts = []
    for test in (False, True):
        given = dict(data_root=str(data), indices=LABELLED, test_mode=test)
        samples = list(DATASETS.build(dict(config.train_dataloader.dataset, **given)))
        images = torch.stack([s["inputs"] for s in samples])
        labels = np.array([int(s["data_samples"].gt_label) for s in samples])
        parts.append(((images.float() - mean) / std, labels))
    return tuple(parts)


@torch.no_grad()
def features(encoder: nn.Module, images: Tensor) -> tuple[Tensor, np.ndarray]:
    """Without the final norm: of all layers the mean, token by token, (N, tokens, D) float16; of
    the last layer the mean over tokens, (N, D), on the host.
    """
    tokens, pooled, device = [], [], next(encoder.parameters()).device
    for batch in images.split(250):
        outs = encoder(batch.to(device))
        tokens.append(torch.stack(outs).mean(0).half())
        pooled.append(outs[-1].mean(1))
    return torch.cat(tokens), torch.cat(pooled).cpu().numpy()


def encoder_of(objective: str, checkpoint: Path | None, seed: int, full: bool) -> nn.Module:
    """A frozen encoder under its own mask, or under full attention; random without checkpoint."""
    config = Config.fromfile(HERE / f"{objective}.py").model
    masks = dict(mask=FULL, change_mask=True) if full else dict(mask=config.mask)
    torch.manual_seed(seed)
    config.backbone.update(final_norm=False, out_indices=[0, 1, 2, 3], **masks)
    if checkpoint:
        init = dict(type="Pretrained", checkpoint=str(checkpoint), prefix="backbone.")
        config.backbone.init_cfg = init
    encoder = MODELS.build(config.backbone)
    encoder.init_weights()
    return encoder.eval().to(DEVICE)


def linear(train: tuple, test: tuple) -> float:
    """Accuracy in per cent of a logistic regression on standardised features (N, D)."""
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300, tol=1e-3))
    return 100 * probe.fit(train[0], train[1]).score(test[0], test[1])


def attentive(train: tuple, test: tuple, epochs: int = 8, batch: int = 250) -> float:
    """Accuracy in per cent of the attentive probe on token features (N, tokens, D)."""
    torch.manual_seed(0)
    head = dict(type="xtra_toolkit.AttentiveProbe", num_heads=3)
    width, steps = train[0].shape[-1], epochs * len(train[0]) // batch
    sweep = dict(type="xtra_toolkit.ProbeSweep", num_classes=10, in_channels=width)
    device = train[0].device
    probe = MODELS.build(dict(sweep, rates=[2e-3], probe=head)).to(device)
    optimizer = torch.optim.AdamW(probe.parameters(), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    labels = torch.from_numpy(train[1]).to(device)
    for _ in range(epochs):
        for pick in torch.randperm(len(labels)).to(device).split(batch):
            logits = probe((train[0][pick].float(),))[:, 0]
            nn.functional.cross_entropy(logits, labels[pick]).backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
    probe.eval()
    with torch.no_grad():
        guesses = [probe((x.float(),))[:, 0].argmax(-1) for x in test[0].split(batch)]
    return 100 * float((torch.cat(guesses).cpu().numpy() == test[1]).mean())


def probe(encoder: nn.Module, data: tuple) -> dict[str, float]:
    """Both probes of a frozen encoder."""
    (x, x_pooled, y), (t, t_pooled, z) = ((*features(encoder, images), y) for images, y in data)
    return dict(linear=linear((x_pooled, y), (t_pooled, z)), attentive=attentive((x, y), (t, z)))


def main() -> None:
    """Pretrain, probe, write."""
    MMLogger.get_instance("compare", log_level="ERROR")
    data = unpack()
    images = labelled(data)
    runs = [dict(run, checkpoint=None) for run in plan()]
    for run in runs:
        given = {k: run[k] for k in ("objective", "seed", "rate", "images")}
        run["checkpoint"], run["seconds"] = pretrain(data, **given)
        run["epochs"] = run["images"] / 60_000
    floor = dict(rate="", images=0, epochs=0, seconds=0, checkpoint=None)
    runs += [dict(floor, objective="random", seed=seed) for seed in range(2)]
    flat = [(x.flatten(1).numpy(), y) for x, y in images]
    rows = [dict(floor, objective="raw pixels", seed="", attention="", linear=linear(*flat))]
    for run in runs:
        causal = run["objective"] not in ("mae", "aim_prefix")
        for attention in ("own mask", "full") if causal else ("full",):
            kind = "xtra" if run["objective"] == "random" else run["objective"]
            encoder = encoder_of(kind, run["checkpoint"], run["seed"], attention == "full")
            rows.append(dict(run, attention=attention, **probe(encoder, images)))
            print({key: rows[-1][key] for key in ROW}, flush=True)
    write(rows)


def write(rows: list[dict]) -> None:
    """results.csv, and what report.py makes of it."""
    with open(WORK / "results.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ROW, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    subprocess.run([sys.executable, str(HERE / "report.py"), str(WORK)], check=True)


if __name__ == "__main__":
    main()
