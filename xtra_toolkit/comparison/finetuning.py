"""Train an encoder with labels, from a checkpoint or from scratch, with MMPretrain's classifier."""

import contextlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config
from mmengine.runner import Runner

from xtra_toolkit.comparison.pretraining import PACKED, measure_seconds
from xtra_toolkit.comparison.probes import backbone_config
from xtra_toolkit.hooks import SaveOnSignal

READERS = ("xtra_toolkit.ReadImage", "xtra_toolkit.LoadImage")  # packed images need none
KEPT = ("default_scope", "env_cfg", "visualizer", "log_processor", "log_level", "custom_hooks")
HOOKS = ("timer", "logger", "param_scheduler", "checkpoint", "preemption")
AUTOCAST = "xtra_toolkit.AutocastOptimWrapper"


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

    Augmentation and precision are those of pretraining. The head is linear on the mean of the
    patch tokens after the final norm, batch-normalised as in MAE's linear probe: without batch
    normalisation, a run with few labels spends its steps on the mean that all features share,
    whether the encoder is pretrained or not. The optimizer is AdamW; the learning rate warms up
    over a tenth of the run and decays as a cosine.

    Args:
        pretraining: Config with the encoder, the normalisation and the augmentation.
        packed: Folder of the packed images.
        images: Indices of the training images that have labels.
        epochs: Number of epochs.
        checkpoint: Pretrained weights. None: random weights, xavier-uniform.
        mask: Mask of the encoder. None: the mask of pretraining.
        rate: Peak learning rate.
        seed: Seed of the order of the images, of their augmentation and of random weights.
        batch: Images of a step; all of them if there are fewer.
    """
    batch = min(batch, len(images))
    pipeline = pretraining.train_dataloader.dataset.pipeline
    augmentation = [step for step in pipeline if step["type"] not in READERS]
    hooks = {name: pretraining.default_hooks[name] for name in HOOKS}
    interval = dict(by_epoch=True, interval=max(epochs // 10, 1), max_keep_ckpts=1)
    hooks["checkpoint"] = dict(hooks["checkpoint"], **interval)
    train = _loader(packed, "train", batch, augmentation, indices=[int(i) for i in images])
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
            val_evaluator=dict(type="mmpretrain.Accuracy", topk=(1,)),
            optim_wrapper=dict(
                _precision(pretraining),
                type=AUTOCAST,
                optimizer=dict(type="torch.optim.AdamW", lr=rate, weight_decay=0.05, fused=True),
                clip_grad=dict(max_norm=1.0),
                paramwise_cfg=dict(flat_decay_mult=0.0),
            ),
            param_scheduler=_schedule(epochs, len(images) // batch),
            randomness=dict(seed=seed),
            resume=True,
        )
    )


def _precision(pretraining: Config) -> dict:
    """Return the dtype and the devices of autocast, if pretraining names them."""
    wrapper = pretraining.optim_wrapper
    keys = ("dtype", "devices") if wrapper.type == AUTOCAST else ()
    return {key: wrapper[key] for key in keys if key in wrapper}


def _schedule(epochs: int, steps: int) -> list[dict]:
    """Return warm-up and decay. A run of fewer than ten steps has no warm-up."""
    warmup = 0.1 * epochs if epochs * steps >= 10 else 0
    rise = dict(type="mmengine.LinearLR", start_factor=0.1, begin=0, end=warmup)
    decay = dict(type="mmengine.CosineAnnealingLR", begin=warmup, end=epochs)
    schedulers = [rise, decay] if warmup else [decay]
    return [dict(scheduler, convert_to_iter_based=True) for scheduler in schedulers]


def _classifier(
    pretraining: Config, packed: Path, checkpoint: Path | None, mask: dict | None
) -> dict:
    """Return the config of the model."""
    changes = dict(mask=mask, change_mask=True) if mask else {}
    backbone = backbone_config(pretraining, checkpoint, out_type="avg_featmap")
    backbone.update(changes)
    preprocessor = pretraining.model.data_preprocessor
    statistics = {key: preprocessor[key] for key in ("mean", "std")}
    width = embed_dims(backbone)
    return dict(
        type="mmpretrain.ImageClassifier",
        data_preprocessor=dict(type="mmpretrain.ClsDataPreprocessor", to_rgb=False, **statistics),
        backbone=backbone,
        neck=dict(type="mmpretrain.ClsBatchNormNeck", input_features=width),
        head=dict(
            type="mmpretrain.LinearClsHead",
            num_classes=len((packed / "classes.txt").read_text().splitlines()),
            in_channels=width,
        ),
    )


def embed_dims(backbone: dict) -> int:
    """Return the width of the encoder that a config describes."""
    from mmpretrain.models import VisionTransformer

    arch = backbone["arch"]
    if isinstance(arch, str):
        arch = VisionTransformer.arch_zoo[arch]
    return arch["embed_dims"]


def _loader(packed: Path, split: str, batch: int, pipeline: list, **dataset: object) -> dict:
    """Return the config of a data loader of packed images, in their order."""
    return dict(
        batch_size=batch,
        num_workers=0,
        persistent_workers=False,
        collate_fn=dict(type="mmengine.default_collate"),
        sampler=dict(type="mmengine.DefaultSampler", shuffle=False),
        dataset=dict(type=PACKED, data_root=str(packed), split=split, pipeline=pipeline, **dataset),
    )


def fine_tune(config: Config, work: Path) -> float:
    """Train a classifier and return its accuracy on the test images in per cent.

    A stopped run is resumed; a finished run is not run again. ``work`` receives the config, the
    log ``train.log``, the result ``accuracy.json`` and the duration ``seconds.txt``.

    Raises:
        KeyboardInterrupt: A signal came after the last step. The result is written before.
    """
    work.mkdir(parents=True, exist_ok=True)
    result = work / "accuracy.json"
    if not result.exists():
        config.work_dir, config.experiment_name = str(work), "_".join(work.absolute().parts[-3:])
        config.dump(work / "finetune.py")
        with (
            measure_seconds(work / "seconds.txt"),
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
        if any(isinstance(hook, SaveOnSignal) and hook.heard for hook in runner.hooks):
            raise KeyboardInterrupt
    return json.loads(result.read_text())["accuracy"]
