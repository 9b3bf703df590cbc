"""Training an encoder with labels, from a checkpoint or from scratch: MMPretrain's classifier."""

import contextlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config
from mmengine.runner import Runner

from xtra_toolkit.comparison.pretraining import PACKED, clock
from xtra_toolkit.comparison.probes import backbone_config

READERS = ("xtra_toolkit.ReadImage", "xtra_toolkit.LoadImage")  # packed images need none
KEPT = ("default_scope", "env_cfg", "visualizer", "log_processor", "log_level", "custom_hooks")
PRECISION = ("dtype", "devices")  # of AutocastOptimWrapper
HOOKS = ("timer", "logger", "param_scheduler", "checkpoint", "preemption")


def classifier_config(
    pretraining: Config,
    packed: Path,
    images: Sequence[int],
    epochs: int,
    checkpoint: Path | None = None,
    mask: dict | None = None,
    rate: float = 1e-3,
    seed: int = 0,
    batch: int = 64,
) -> Config:
    """Return a config of MMPretrain that trains the encoder of a pretraining config with labels.

    The augmentation is that of pretraining. The head is linear on the mean of the patch tokens
    after the final norm, batch-normalised as in MAE's linear probe: without that a run with few
    labels spends its steps on the mean that all features share, pretrained or not. The optimizer
    is AdamW; its rate warms up over a tenth of the run and decays as a cosine.

    Args:
        pretraining: Config of the encoder, of the normalisation and of the augmentation.
        packed: Folder with the packed images.
        images: Which of the training images have labels, by their place in it.
        epochs: How often each of them is seen.
        checkpoint: Where the encoder starts; None: from random weights, xavier-uniform.
        mask: The encoder's mask; None: that of pretraining.
        rate: The peak learning rate.
        seed: Of the order of the images, of their augmentation and of random weights.
        batch: Images of a step; all of them, where there are fewer.
    """
    batch = min(batch, len(images))
    pipeline = pretraining.train_dataloader.dataset.pipeline
    augment = [step for step in pipeline if step["type"] not in READERS]
    hooks = {name: pretraining.default_hooks[name] for name in HOOKS}
    hooks["checkpoint"] = dict(hooks["checkpoint"], by_epoch=True, interval=max(epochs // 10, 1))
    hooks["checkpoint"]["max_keep_ckpts"] = 1
    given = pretraining.optim_wrapper
    precision = {key: given[key] for key in PRECISION if key in given}
    accuracy = dict(type="mmpretrain.Accuracy", topk=(1,))
    train = _loader(packed, "train", batch, augment, indices=[int(i) for i in images])
    train["sampler"] = dict(type="xtra_toolkit.GlobalBatchSampler")
    loop = dict(type="xtra_toolkit.GlobalBatchLoop", max_epochs=epochs, val_interval=epochs)
    return Config(
        dict(
            {key: pretraining[key] for key in KEPT},
            default_hooks=hooks,
            model=_classifier(pretraining, packed, checkpoint, mask),
            train_dataloader=train,
            val_dataloader=_loader(packed, "test", 250, [dict(type="mmpretrain.PackInputs")]),
            train_cfg=dict(loop, global_batch=batch),
            val_cfg=dict(type="xtra_toolkit.InferenceValLoop"),
            val_evaluator=accuracy,
            optim_wrapper=dict(
                precision,
                type="xtra_toolkit.AutocastOptimWrapper",
                optimizer=dict(type="torch.optim.AdamW", lr=rate, weight_decay=0.05, fused=True),
                clip_grad=dict(max_norm=1.0),
                paramwise_cfg=dict(flat_decay_mult=0.0),
            ),
            param_scheduler=_schedule(epochs, len(images) // batch),
            randomness=dict(seed=seed),
            resume=True,
        )
    )


def _schedule(epochs: int, steps: int) -> list[dict]:
    """Return warm-up and decay; a run of fewer than ten steps has no warm-up."""
    warm = 0.1 * epochs if epochs * steps >= 10 else 0
    decay = dict(type="mmengine.CosineAnnealingLR", begin=warm, end=epochs)
    rise = dict(type="mmengine.LinearLR", start_factor=0.1, begin=0, end=warm)
    return [dict(part, convert_to_iter_based=True) for part in ([rise] if warm else []) + [decay]]


def _classifier(
    pretraining: Config, packed: Path, checkpoint: Path | None, mask: dict | None
) -> dict:
    given, changes = pretraining.model, dict(mask=mask, change_mask=True) if mask else {}
    backbone = backbone_config(pretraining, checkpoint, out_type="avg_featmap")
    backbone.update(changes)
    normalise = {key: given.data_preprocessor[key] for key in ("mean", "std")}
    return dict(
        type="mmpretrain.ImageClassifier",
        data_preprocessor=dict(type="mmpretrain.ClsDataPreprocessor", to_rgb=False, **normalise),
        backbone=backbone,
        neck=dict(type="mmpretrain.ClsBatchNormNeck", input_features=width_of(backbone)),
        head=dict(
            type="mmpretrain.LinearClsHead",
            num_classes=len((packed / "classes.txt").read_text().splitlines()),
            in_channels=width_of(backbone),
        ),
    )


def width_of(backbone: dict) -> int:
    """Return the width of the encoder that a config names."""
    from mmpretrain.models import VisionTransformer

    arch = backbone["arch"]
    if isinstance(arch, str):
        arch = VisionTransformer.arch_zoo[arch]
    return arch["embed_dims"]


def _loader(packed: Path, split: str, batch: int, pipeline: list, **dataset: object) -> dict:
    data = dict(type=PACKED, data_root=str(packed), split=split, pipeline=pipeline, **dataset)
    return dict(
        batch_size=batch,
        num_workers=0,
        persistent_workers=False,
        collate_fn=dict(type="mmengine.default_collate"),
        sampler=dict(type="mmengine.DefaultSampler", shuffle=False),
        dataset=data,
    )


def fine_tune(config: Config, work: Path) -> float:
    """Train a classifier, or what is left of it, and return its accuracy on the test images.

    The config that ran and the log, ``train.log``, are in ``work``; so are ``accuracy.json``, and
    ``seconds.txt`` with the seconds that it took.
    """
    work.mkdir(parents=True, exist_ok=True)
    result = work / "accuracy.json"
    if not result.exists():
        config.work_dir, config.experiment_name = str(work), "_".join(work.absolute().parts[-3:])
        config.dump(work / "finetune.py")
        with (
            clock(work / "seconds.txt"),
            open(work / "train.log", "a") as log,
            contextlib.redirect_stdout(log),
            contextlib.redirect_stderr(log),
        ):
            runner = Runner.from_cfg(config)
            runner.train()
            runner.logger.handlers.clear()  # one of them writes to the log that closes here
        accuracy = runner.message_hub.get_scalar("val/accuracy/top1").current()
        result.write_text(json.dumps(dict(accuracy=float(accuracy))))
        for checkpoint in work.glob("*.pth"):
            checkpoint.unlink()
        shutil.rmtree(work / "vis_data", ignore_errors=True)
    return json.loads(result.read_text())["accuracy"]
