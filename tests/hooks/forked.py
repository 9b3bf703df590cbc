"""Run a small training in a forked process, which a test may kill."""

import os
import signal
import time
import traceback
import uuid
from pathlib import Path

import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset

from xtra_toolkit.data import SeededSamples

STEPS = 20
LIMIT = 180  # seconds after which a process hangs, on a busy core too


class Plain(Dataset):
    metainfo = {}

    def __init__(self, pause):
        self.pause = pause

    def __len__(self):
        return 40

    def __getitem__(self, index):
        time.sleep(self.pause)
        return {"x": torch.eye(4)[index % 4] + 0.1 * torch.randn(4)}


class Noise(SeededSamples, Plain):
    pass


class Still(Plain):
    def __getitem__(self, index):
        return {"x": torch.eye(4)[index % 4]}


class Model(BaseModel):
    def __init__(self, ballast):
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.register_buffer("ballast", torch.zeros(ballast, 2**18))  # MiB to write

    def forward(self, x, mode="tensor"):
        loss = (self.layer(x) - x.flip(-1)).square().mean()
        return {"loss": loss} if mode == "loss" else [loss]


class MeanLoss(BaseMetric):
    """Compute the loss of a validation slowly, so that a test may kill it."""

    default_prefix = "val"

    def __init__(self, folder, pause):
        super().__init__()
        self.folder, self.pause = Path(folder), pause

    def process(self, data_batch, data_samples):
        with open(self.folder / "validations.txt", "a") as file:
            file.write("begun\n")
        time.sleep(self.pause)
        self.results.append(float(data_samples[0]))

    def compute_metrics(self, results):
        return {"loss": sum(results) / len(results)}


def validation(folder, pause=0.0):
    """Return the parts of a config that validate after each epoch."""
    collate, sampler = dict(type="default_collate"), dict(type="DefaultSampler", shuffle=False)
    loader = dict(dataset=Still(0), batch_size=40, sampler=sampler, collate_fn=collate)
    return dict(val_dataloader=loader, val_cfg=dict(), val_evaluator=[MeanLoss(folder, pause)])


class Record(Hook):
    """Append the number and the exact loss of each iteration to a file."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        with open(Path(runner.work_dir) / "losses.txt", "a") as file:
            file.write(f"{runner.iter + 1} {float(outputs['loss']).hex()}\n")


def losses(folder):
    """Return the lines of all runs in ``folder``."""
    file = Path(folder) / "losses.txt"
    lines = file.read_text().splitlines() if file.exists() else []
    return [(int(number), loss) for number, loss in map(str.split, lines)]


def train(folder, ballast=8, pause=0.0, workers=0, checkpoint=None, hooks=(), **parts):
    """Train or resume 4 epochs of 5 steps."""
    torch.manual_seed(0)
    saver = dict(type="xtra_toolkit.AtomicCheckpointHook", interval=1, by_epoch=False)
    own = [dict(type="xtra_toolkit.SafeResume"), dict(type="xtra_toolkit.SaveOnSignal")]
    Runner(
        model=Model(ballast),
        work_dir=str(folder),
        train_dataloader=dict(
            dataset=Noise(pause),
            batch_size=4,
            num_workers=workers,
            collate_fn=dict(type="default_collate"),
        ),
        train_cfg=dict(type="xtra_toolkit.GlobalBatchLoop", max_epochs=4, global_batch=8),
        optim_wrapper=dict(optimizer=dict(type="AdamW", lr=0.01)),
        param_scheduler=[dict(type="PolyLR", by_epoch=False, end=STEPS)],
        randomness=dict(seed=3),
        default_hooks=dict(checkpoint={**saver, "max_keep_ckpts": 2, **(checkpoint or {})}),
        custom_hooks=[Record(), *own, *hooks],
        experiment_name=uuid.uuid4().hex,
        resume=True,
        **parts,
    ).train()


def fork(function, *args, **kwargs):
    """Return the id of a process that calls ``function`` and leads its own group."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.setpgid(0, 0)
        torch.set_num_threads(1)  # other threads were not forked
        code = function(*args, **kwargs) or 0
    except SystemExit as leaving:
        code = leaving.code
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def until(condition):
    """Wait until a condition holds; fail after ``LIMIT`` seconds."""
    stop = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < stop, "waited in vain"
        time.sleep(0.005)


def ends(child):
    """Return the exit code of a process, or minus its signal; kill a process that hangs."""
    stop = time.monotonic() + LIMIT
    while time.monotonic() < stop:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "hung"


def last(folder):
    """Load the checkpoint that ``last_checkpoint`` names; None without one."""
    folder = Path(folder)
    pointer = folder / "last_checkpoint"
    return torch.load(folder / pointer.read_text(), weights_only=True) if pointer.exists() else None
