"""Test that a signal saves the run and ends it with 75, and that the run can be resumed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import mmpretrain
import pytest
import torch
from forked import LIMIT, STEPS, ends, fork, last, losses, train, until
from helpers import photographs
from mmengine.hooks import Hook

from xtra_toolkit.hooks import SaveOnSignal

BY_EPOCH = dict(by_epoch=True)


def reaches(folder, lines):
    """Wait until so many iterations have been recorded."""
    until(lambda: len(losses(folder)) >= lines)


def signalled(folder, number, *, send, after=3, **options):
    """Return the exit code of a training that is signalled after some iterations."""
    child = fork(train, folder, ballast=1, pause=0.004, checkpoint=BY_EPOCH, **options)
    reaches(folder, after)
    send(child, number)
    return ends(child)


@pytest.mark.faults
@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_signal_saves_within_an_epoch_and_the_run_resumes(tmp_path, name, fault):
    """Slurm signals all processes of a job step, and data loader workers must not end."""
    with fault(f"{name} to all processes of a run, data loaders included"):
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


@pytest.mark.faults
def test_all_processes_save_and_exit_at_the_same_iteration(tmp_path, fault):
    with fault("SIGTERM to one of two processes"):
        children = [fork(of_two, rank, tmp_path / "run", tmp_path / "place") for rank in (0, 1)]
        reaches(tmp_path / "run", 6)  # both processes write there
        os.kill(children[1], signal.SIGTERM)
        assert [ends(child) for child in children] == [75, 75]
        made = [number for number, _ in losses(tmp_path / "run")]
        assert last(tmp_path / "run")["meta"]["iter"] == max(made)
        assert sorted(made) == sorted([*range(1, max(made) + 1)] * 2) and max(made) < STEPS


def leaves_slowly(folder):
    """Train, and take long to exit, as an interpreter with many modules does."""
    try:
        train(folder, ballast=1, pause=0.004)
    except SystemExit:
        (folder / "leaving").touch()
        time.sleep(0.6)
        raise


@pytest.mark.faults
@pytest.mark.parametrize("seconds", [0.1, 0.25, 0.4])
def test_a_second_signal_changes_nothing(tmp_path, seconds, fault):
    with fault("a second SIGTERM 0.1 to 0.4 s after the first"):
        child = fork(leaves_slowly, tmp_path)
        reaches(tmp_path, 3)
        os.kill(child, signal.SIGTERM)
        until((tmp_path / "leaving").exists)
        time.sleep(seconds)
        os.kill(child, signal.SIGTERM)
        assert ends(child) == 75
        assert last(tmp_path)["meta"]["iter"] == len(losses(tmp_path))


class Waits(Hook):
    def before_run(self, runner):
        Path(runner.work_dir, "waiting").touch()
        time.sleep(10 * LIMIT)  # the signal ends it


@pytest.mark.faults
def test_a_signal_before_training_ends_with_75(tmp_path, fault):
    with fault("SIGTERM before training begins"):
        child = fork(train, tmp_path, hooks=[Waits()])
        until((tmp_path / "waiting").exists)
        os.kill(child, signal.SIGTERM)
        assert ends(child) == 75


def catches(process, number):
    """Return whether the process has a handler of the signal."""
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return False


@pytest.mark.faults
def test_a_signal_before_the_launcher_has_imported_torch_ends_with_75(tmp_path, fault):
    with fault("SIGTERM before training begins"):
        command = [sys.executable, "-m", "xtra_toolkit.train", CONFIG, "--work-dir", tmp_path]
        process = subprocess.Popen(list(map(str, command)), cwd=tmp_path)
        until(lambda: catches(process, signal.SIGTERM))
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=LIMIT) == 75


class Counts(Hook):
    """Keep a number in the checkpoint, as a hook of the lowest priority that is registered last."""

    priority = "LOWEST"

    def __init__(self, signal_at):
        self.steps, self.signal_at = 0, signal_at

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter + 1 == self.signal_at:
            os.kill(os.getpid(), signal.SIGTERM)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.steps += 1

    def before_save_checkpoint(self, runner, checkpoint):
        checkpoint["counted"] = self.steps


def test_hooks_that_are_registered_later_run_in_the_last_step(build, tmp_path):
    saver = dict(checkpoint=dict(type="xtra_toolkit.AtomicCheckpointHook", interval=9))
    hooks = [dict(type="xtra_toolkit.SafeResume"), dict(type="xtra_toolkit.SaveOnSignal")]
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit):
            build(custom_hooks=[*hooks, Counts(3)], default_hooks=saver).train()
    finally:  # it ignores them until the process has ended
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
    assert last(tmp_path)["counted"] == 3 == last(tmp_path)["meta"]["iter"]


SCRIPT = Path(mmpretrain.__file__).parent / ".mim/tools/train.py"
CONFIG = Path(__file__).parents[1] / "configs/xtra_tiny.py"
TWO = CONFIG.with_name("xtra_tiny_processes.py")
COMMANDS = {
    "MMPretrain's script": [SCRIPT, CONFIG],
    "xtra_toolkit.train": ["-m", "xtra_toolkit.train", CONFIG],
    "xtra_toolkit.train --gpus 2": ["-m", "xtra_toolkit.train", TWO, "--gpus", "2"],
}


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.parametrize("name", COMMANDS)
def test_the_real_command_exits_with_75(tmp_path, name, fault):
    """mim itself exits with 1, whatever the exit code of its training process is."""
    photos = photographs.write(tmp_path / "photos", 24)
    options = [f"train_dataloader.dataset.data_root={photos.name}", "train_dataloader.batch_size=2"]
    options += ["train_dataloader.num_workers=2", "train_cfg.global_batch=4"]
    command = [sys.executable, *COMMANDS[name]]
    command += ["--resume", "--work-dir", tmp_path / "run", "--cfg-options", *options]
    with fault("SIGTERM to the real command"):
        process = subprocess.Popen(list(map(str, command)), cwd=tmp_path, start_new_session=True)
        until(lambda: list(tmp_path.glob("run/epoch_1.pth")) or process.poll() is not None)
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 75
        assert 6 < last(tmp_path / "run")["meta"]["iter"] < 60


class Interrupts(Hook):
    """Send Ctrl-C before the second step, as often as given."""

    def __init__(self, times):
        self.times = times

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 1:
            for _ in range(self.times):
                os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(("times", "ends"), [(1, SystemExit), (2, KeyboardInterrupt)])
def test_ctrl_c_saves_and_a_second_ctrl_c_exits_at_once(build, tmp_path, times, ends):
    saver = dict(checkpoint=dict(type="xtra_toolkit.AtomicCheckpointHook", interval=9))
    hooks = [dict(type="xtra_toolkit.SafeResume"), dict(type="xtra_toolkit.SaveOnSignal")]
    former = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)}
    try:
        with pytest.raises(ends):
            build(custom_hooks=[*hooks, Interrupts(times)], default_hooks=saver).train()
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
    assert list(tmp_path.glob("*.pth")) == [tmp_path / "epoch_0_iter_2.pth"] * (times == 1)


def test_the_hook_requires_the_atomic_checkpoint_hook(build):
    hooks = [dict(type="xtra_toolkit.SaveOnSignal")]
    with pytest.raises(ValueError, match=r"checkpoint\.type=xtra_toolkit\.AtomicCheckpointHook"):
        build(custom_hooks=hooks).train()


def test_the_former_handlers_are_restored(build):
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    class Look(SaveOnSignal):
        def after_train_iter(self, runner, *args, **kwargs):
            seen.append(signal.getsignal(signal.SIGTERM))

    saver = dict(checkpoint=dict(type="xtra_toolkit.AtomicCheckpointHook", interval=1))
    build(epochs=1, custom_hooks=[Look()], default_hooks=saver).train()
    assert before not in seen and len(seen) == 4
    assert signal.getsignal(signal.SIGTERM) == before
