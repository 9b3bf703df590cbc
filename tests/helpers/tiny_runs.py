"""Run tiny models on digits, with random crops and drop path, and record what they were given."""

import hashlib
import json
import uuid
from pathlib import Path

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from helpers.builds import MASKS, TARGETS, arch
from xtra_toolkit.data import Digits

PAIRS = {
    "XTRA": ("block", "block"),
    "random block orders": ("block_orders", "block"),
    "AIM": ("prefix", "token"),
    "MAE": ("shown", "masked"),
}
IMAGES, GLOBAL_BATCH, EPOCHS = 44, 8, 3  # 15 steps, 5 an epoch
ENCODER, DECODER = dict(patch_size=4, in_channels=1), dict(projection=32, width=24, depth=1)
PIPELINE = [
    dict(type="xtra_toolkit.RandomResizedCrop", scale=16, crop_ratio_range=(0.3, 1.0)),
    dict(type="xtra_toolkit.RandomFlip", prob=0.5),
    dict(type="mmpretrain.PackInputs"),
]


def digest(tensor):
    return hashlib.sha1(tensor.contiguous().numpy().tobytes()).hexdigest()[:12]


class Seen(Hook):
    """Record the images, masks, loss and learning rate of each step."""

    priority = "ABOVE_NORMAL"

    def __init__(self, model):
        self.images, self.masks, self.losses, self.rates = [], [], {}, {}
        self.steps, self.training = {}, False
        plan, factory = model.plan, model.objective.mask
        model.plan = lambda images, samples: self.note(images, plan, samples)
        model.objective.mask = lambda *args: self.drawn(factory(*args), args[1:2])

    def note(self, images, plan, samples):
        self.images += map(digest, images)
        self.training = True  # masks that are drawn only to count predictions are not recorded
        made = plan(images, samples)
        self.training = False
        return made

    def drawn(self, mask, batch):
        fields = [f for f in (mask.order, mask.step, mask.context) if f is not None]
        batch = batch if self.training else ()
        rows = [f.expand(*batch, -1) if f.ndim == 1 else f for f in fields] if batch else []
        self.masks += ["".join(map(digest, row)) for row in zip(*rows, strict=True)]
        return mask

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.steps[runner.iter] = (tuple(self.images), tuple(self.masks))
        self.images, self.masks = [], []
        self.losses[runner.iter] = float(outputs["loss"])
        self.rates[runner.iter] = runner.optim_wrapper.get_lr()["lr"][0]


def run(folder, pair, **changes):
    """Train a runner of :func:`build`; return it and its :class:`Seen`."""
    runner = build(folder, pair, **changes)
    seen = Seen(getattr(runner.model, "module", runner.model))
    runner.register_hook(seen)
    runner.train()
    return runner, seen


def build(folder, pair, batch_size=4, drop_path=0.1, workers=0, dataset=None, **changes):
    """Build a runner; ``changes`` replace parts of the config."""
    mask, target = PAIRS[pair]
    config = dict(
        model=dict(
            type="xtra_toolkit.MaskTargetPretrainer",
            mask=MASKS[mask],
            target_generator=TARGETS[target],
            backbone=dict(
                type="xtra_toolkit.MaskedViT",
                arch=arch(24, 2, 2),
                img_size=16,
                drop_path_rate=drop_path,
                **ENCODER,
            ),
            neck=dict(type="xtra_toolkit.ViTDecoder", heads=2, **DECODER),
            head=dict(type="xtra_toolkit.PredictionHead", hidden=32),
            data_preprocessor=dict(
                type="mmpretrain.SelfSupDataPreprocessor", mean=[77.8], std=[95.9], to_rgb=False
            ),
        ),
        work_dir=str(folder),
        default_scope="mmpretrain",
        train_dataloader=dict(
            dataset=dataset or Digits("train", indices=IMAGES, pipeline=PIPELINE),
            batch_size=batch_size,
            num_workers=workers,
            collate_fn=dict(type="default_collate"),
        ),
        train_cfg=dict(
            type="xtra_toolkit.GlobalBatchLoop", max_epochs=EPOCHS, global_batch=GLOBAL_BATCH
        ),
        optim_wrapper=dict(optimizer=dict(type="AdamW", lr=1e-3), clip_grad=dict(max_norm=1.0)),
        param_scheduler=[
            dict(type="LinearLR", start_factor=0.1, end=4, by_epoch=False),
            dict(type="CosineAnnealingLR", by_epoch=True, begin=1, convert_to_iter_based=True),
        ],
        default_hooks=dict(
            logger=dict(type="LoggerHook", interval=1),
            checkpoint=dict(type="CheckpointHook", interval=7, by_epoch=False),
        ),
        custom_hooks=[dict(type="xtra_toolkit.SafeResume")],
        randomness=dict(seed=3),
        experiment_name=uuid.uuid4().hex,  # MMEngine shares a message hub between equal names
        log_level="WARNING",
    )
    return Runner(**{**config, **changes})


def logged(folder):
    """Return what the logger wrote for each step, without times."""
    (file,) = Path(folder).glob("*/vis_data/scalars.json")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    kept = ("loss", "lr", "base_lr", "grad_norm", "iter", "epoch")
    return {line["step"]: {key: line[key] for key in kept if key in line} for line in lines}


def flat(state, name=""):
    """Flatten a nested state to a dict by dotted names, with tensors as bytes."""
    if isinstance(state, torch.Tensor):
        return {name: state.detach().reshape(-1).view(torch.uint8).numpy().tobytes()}
    if isinstance(state, list | tuple):
        state = dict(enumerate(state))
    if not isinstance(state, dict):
        return {name: state}
    return {k: v for key, item in state.items() for k, v in flat(item, f"{name}.{key}").items()}
