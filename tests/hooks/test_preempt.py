"""A signal saves the run and ends it with 75; started again, it goes on from there."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import mmpretrain
import photographs
import pytest
import torch
from forked import STEPS, ends, fork, last, losses, train

from xtra_toolkit.hooks import SaveOnSignal

BY_EPOCH = dict(by_epoch=True)


def reaches(folder, lines):
    """Waits until so many iterations were recorded."""
    stop = time.monotonic() + 60
    while len(losses(folder)) < lines:
        assert time.monotonic() < stop, "the training makes no steps"
        time.sleep(0.005)


def signalled(folder, number, *, send, after=3, **options):
    """The exit code of a training signalled after some iterations."""
    child = fork(train, folder, ballast=1, pause=0.004, checkpoint=BY_EPOCH, **options)
    reaches(folder, after)
    send(child, number)
    return ends(child)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_it_saves_in_mid_epoch_and_goes_on(tmp_path, name):
    """Slurm signals all processes of a job step: those of the data loader must not end."""
    signum = signal.Signals[name]
    code = signalled(tmp_path / "run", signum, send=os.killpg, after=8, workers=2)
    assert code == 75
    stopped = len(losses(tmp_path / "run"))
    assert 8 <= stopped < STEPS and last(tmp_path / "run")["meta"]["iter"] == stopped
    saved = (tmp_path / "run/last_checkpoint").read_text()
    assert saved.endswith(
        f"epoch_{(stopped) // 5 if stopped % 5 else stopped // 5 - 1}_iter_{stopped}.pth"
    )
    assert ends(fork(train, tmp_path / "run", ballast=1, checkpoint=BY_EPOCH)) == 0
    assert ends(fork(train, tmp_path / "whole", ballast=1, checkpoint=BY_EPOCH)) == 0
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


def of_two(rank, folder, place):
    torch.distributed.init_process_group("gloo", f"file://{place}", rank=rank, world_size=2)
    train(folder, ballast=1, pause=0.004, checkpoint=BY_EPOCH)


def test_all_processes_leave_at_the_iteration_that_they_agree_on(tmp_path):
    children = [fork(of_two, rank, tmp_path / "run", tmp_path / "place") for rank in (0, 1)]
    reaches(tmp_path / "run", 6)  # both write there
    os.kill(children[1], signal.SIGTERM)
    assert [ends(child, within=15) for child in children] == [75, 75]
    made = [number for number, _ in losses(tmp_path / "run")]
    assert last(tmp_path / "run")["meta"]["iter"] == max(made)
    assert sorted(made) == sorted([*range(1, max(made) + 1)] * 2) and max(made) < STEPS


@pytest.mark.slow
def test_the_real_command_leaves_with_75(tmp_path):
    """mim itself ends with 1 whatever its training process ended with."""
    photos = photographs.write(tmp_path / "photos", 24)
    script = Path(mmpretrain.__file__).parent / ".mim/tools/train.py"
    options = [f"train_dataloader.dataset.data_root={photos}", "train_dataloader.batch_size=4"]
    options += ["train_dataloader.num_workers=2", "train_cfg.global_batch=4"]
    command = [sys.executable, script, Path(__file__).parents[1] / "configs/xtra_tiny.py"]
    command += ["--resume", "--work-dir", tmp_path / "run", "--cfg-options", *options]
    process = subprocess.Popen(list(map(str, command)), cwd=tmp_path, start_new_session=True)
    while not list(tmp_path.glob("run/epoch_1.pth")) and process.poll() is None:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait() == 75
    assert 6 < last(tmp_path / "run")["meta"]["iter"] < 60


def test_it_needs_the_hook_that_saves(build):
    hooks = [dict(type="xtra_toolkit.SaveOnSignal")]
    with pytest.raises(ValueError, match=r"checkpoint\.type=xtra_toolkit\.AtomicCheckpointHook"):
        build(custom_hooks=hooks).train()


def test_the_signals_are_given_back(build):
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    class Look(SaveOnSignal):
        def after_train_iter(self, runner, *args, **kwargs):
            seen.append(signal.getsignal(signal.SIGTERM))

    saver = dict(checkpoint=dict(type="xtra_toolkit.AtomicCheckpointHook", interval=1))
    build(epochs=1, custom_hooks=[Look()], default_hooks=saver).train()
    assert before not in seen and len(seen) == 4
    assert signal.getsignal(signal.SIGTERM) == before
