"""Helpers for tests of hooks that watch a run."""

import json
import random
from pathlib import Path

import numpy as np
import torch
from mmengine.hooks import Hook

SAFE = dict(type="xtra_toolkit.SafeResume")
DDP = dict(
    launcher="pytorch",
    cfg=dict(model_wrapper_cfg=dict(type="MMDistributedDataParallel", device_ids=None)),
)
HALF = dict(
    type="xtra_toolkit.MasterWeightsOptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-3),
    clip_grad=dict(max_norm=1.0),
)


def curves(folder, *names):
    """Return the values that the local back end wrote, a list for each name."""
    (file,) = Path(folder).glob("*/vis_data/scalars.json")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    return [[line[name] for line in lines if name in line] for name in names]


def logged_lines(folder):
    (file,) = Path(folder).glob("*/*.log")
    return file.read_text()


class Generators(Hook):
    """Record the state of each random generator, and the mode of each module, after each step."""

    priority = "LOWEST"

    def __init__(self):
        self.states = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        numpy = np.random.get_state()[1].tobytes()
        modes = [module.training for module in runner.model.modules()]
        self.states.append((torch.get_rng_state().tolist(), numpy, random.getstate(), modes))
