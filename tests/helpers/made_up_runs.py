"""Write work folders as MMEngine and the hooks of the toolkit do, without a run."""

import json
import math
import random

from PIL import Image

ARCH = dict(embed_dims=24, num_layers=2, num_heads=2, feedforward_channels=96)
BLOCK = dict(type="xtra_toolkit.BlockCausal", block_size=2)
TOKEN = dict(type="xtra_toolkit.TokenCausal")
ENVIRONMENT = {
    "sys.platform": "linux",
    "Python": "3.11.7 (main, Jan 01 2025) [GCC 12.2.0]",
    "CUDA available": "True",
    "GPU 0": "NVIDIA H100 80GB HBM3",
    "PyTorch": "2.10.0+cu128",
    "PyTorch compiling details": "PyTorch built with:\n  - GCC 13.3\n",
    "MMEngine": "0.10.7",
}


def pretraining(mask=BLOCK, target="NextBlock", **changes):
    """Return the config of a small pretraining."""
    config = dict(
        model=dict(
            type="xtra_toolkit.MaskTargetPretrainer",
            mask=mask,
            target_generator=dict(type=f"xtra_toolkit.{target}"),
            backbone=dict(type="xtra_toolkit.MaskedViT", arch=ARCH, img_size=32, patch_size=4),
            neck=dict(type="xtra_toolkit.ViTDecoder", projection=48, width=24, depth=1, heads=2),
            head=dict(type="xtra_toolkit.PredictionHead", hidden=32, loss="mse"),
        ),
        default_hooks=dict(logger=dict(type="mmengine.LoggerHook", interval=10)),
        train_dataloader=dict(
            batch_size=32, dataset=dict(type="xtra_toolkit.ImageFolder", data_root="data/birds")
        ),
        train_cfg=dict(type="xtra_toolkit.GlobalBatchLoop", max_epochs=10, global_batch=64),
        optim_wrapper=dict(optimizer=dict(type="AdamW", lr=1e-3)),
        load_from=None,
        resume=False,
    )
    return {**config, **changes}


def start(work_dir, config, records=(), time="20250101_120000", epoch_steps=100, **environment):
    """Write the folder of one start, with its config, its records and its log."""
    folder = work_dir / time
    (folder / "vis_data").mkdir(parents=True)
    config = {"work_dir": str(work_dir), **config}
    text = "".join(f"{key} = {value!r}\n" for key, value in config.items())
    (folder / "vis_data" / "config.py").write_text(text)
    text = "".join(f"{json.dumps(record)}\n" for record in records)
    (folder / "vis_data" / "scalars.json").write_text(text)
    (folder / f"{time}.log").write_text(log(epoch_steps, ENVIRONMENT | environment))
    return folder


def log(epoch_steps, environment):
    """Return what MMEngine logs at the start, and the first line of training."""
    stamp, line = "2025/01/01 12:00:00 - mmengine - INFO -", "-" * 60
    values = "".join(f"    {key}: {value}\n" for key, value in environment.items())
    return (
        f"{stamp} \n{line}\nSystem environment:\n{values}\nRuntime environment:\n"
        f"    mp_cfg: {{'mp_start_method': 'fork'}}\n    seed: 0\n    GPU number: 2\n{line}\n\n"
        f"{stamp} Config:\nseed = 1\n\n"
        f"{stamp} BlockCausal × NextBlock on a grid of 8×8 tokens; 60 of 64 positions computed\n"
        f"{stamp} Epoch(train)  [1][ 10/{epoch_steps}]  lr: 1.0e-03  loss: 0.9\n"
    )


def step(number, loss, epoch_steps=100, **more):
    """Return the record of a training step."""
    epoch = (number - 1) // epoch_steps + 1
    known = dict(lr=1e-3, data_time=0.02, grad_norm=0.5, loss=loss, time=0.25, memory=20480)
    return known | more | dict(epoch=epoch, iter=number, step=number)


def validation(epoch, **metrics):
    """Return the record of a validation; its step is the epoch."""
    return {**metrics, "data_time": 0.001, "time": 0.01, "step": epoch}


def training(epochs=10, floor=0.3, best=60.0, seed=0, first=0):
    """Return the records of a whole run: losses fall, accuracies rise, both with noise."""
    draw, records = random.Random(seed), []
    for number in range(100 * first + 10, 100 * epochs + 1, 10):
        fall = math.exp(-number / 300)
        noise = draw.gauss(0, 0.02)
        records.append(
            step(
                number,
                floor + fall + noise,
                lr=1e-3 * math.cos(number / 100 / epochs * 1.5),
                grad_norm=0.4 + fall + abs(noise),
                time=0.25 + abs(noise),
            )
        )
        parts = {f"loss_step/{n}-{n + 3}": floor + fall * (1 - n / 80) for n in range(0, 64, 4)}
        bands = {f"loss_band/{n}": (floor + fall) / (n + 1) for n in range(4)}
        probe = {"probe/train_top1": best * (1 - fall) + 50 * noise, "probe/loss": 2 * fall + 0.5}
        records.append({**parts, **bands, **probe, "step": number})
        if number % 100 == 0:
            records.append(
                validation(
                    number // 100,
                    **{
                        "val/loss": floor + fall + noise / 4,
                        "probe/linear_top1": best * (1 - fall) + 10 * draw.gauss(0, 0.1),
                        "probe/knn_top1": 0.8 * best * (1 - fall) + 10 * draw.gauss(0, 0.1),
                    },
                )
            )
    return records


def pictures(folder, steps, name="reconstruction", size=(192, 96), suffix="png"):
    """Write images as MMEngine's local back end does, or with suffix jpg as that of the toolkit."""
    (folder / "vis_data" / "vis_image").mkdir(exist_ok=True)
    for at in steps:
        image = Image.linear_gradient("L").rotate(at).resize(size)
        image.save(folder / "vis_data" / "vis_image" / f"{name}_{at}.{suffix}")
