"""Test that a run that is killed at any moment resumes from a whole checkpoint."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from forked import STEPS, ends, fork, last, losses, train
from helpers import photographs

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return the folder of an uninterrupted run, and how long it took."""
    folder = tmp_path_factory.mktemp("whole")
    start = time.monotonic()
    assert ends(fork(train, folder)) == 0
    assert [number for number, _ in losses(folder)] == list(range(1, STEPS + 1))
    return folder, time.monotonic() - start


def kill_while_writing(child, folder, deadline=10.0):
    """Send SIGKILL while a checkpoint is written; return False if none was seen before the end."""
    stop = time.monotonic() + deadline
    while time.monotonic() < stop and not os.waitpid(child, os.WNOHANG)[0]:
        if list(folder.glob("*.pth.unfinished")):
            os.kill(child, signal.SIGKILL)
            ends(child)
            return True
    return False


def kill_after(child, seconds):
    """Send SIGKILL after a while; return False if the process had ended before."""
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    code = ends(child)
    assert code in (0, -signal.SIGKILL)
    return code != 0


def goes_on(folder, **options):
    """Start the run again; if it has ``ended``, check that it resumed from its checkpoint."""
    checkpoint, before = last(folder), len(losses(folder))
    at = checkpoint["meta"]["iter"] if checkpoint else 0
    child = fork(train, folder, **options)

    def took_up():
        new = losses(folder)[before:]
        assert not new or new[0][0] == at + 1

    return child, took_up


def equals(folder, whole):
    """Check that every iteration in ``folder`` equals that of the uninterrupted run."""
    expected = dict(losses(whole))
    made = losses(folder)
    assert all(loss == expected[number] for number, loss in made)
    assert {number for number, _ in made} == set(expected)
    one, other = last(folder), last(whole)
    for part in ("state_dict", "optimizer"):
        torch.testing.assert_close(one[part], other[part], rtol=0, atol=0)
    assert not list(folder.glob("*.unfinished"))
    assert len(list(folder.glob("*.pth"))) == 2  # max_keep_ckpts


@pytest.mark.faults
def test_a_run_killed_three_times_ends_bit_identical(whole, tmp_path, fault):
    folder, seconds = whole
    with fault("SIGKILL at a moment of a run", tries=3):
        for attempt in range(10):  # a checkpoint is written in less than a millisecond
            run, seen = tmp_path / str(attempt), True
            for kill in range(3):
                child, took_up = goes_on(run)
                if kill == 1:
                    kill_after(child, 0.5 * seconds)
                else:
                    seen &= kill_while_writing(child, run)
                took_up()
            child, took_up = goes_on(run)
            assert ends(child) == 0
            took_up()
            equals(run, folder)
            if seen:
                break
        assert seen


@pytest.mark.slow
@pytest.mark.faults
def test_a_run_killed_47_times_at_random_ends_bit_identical(whole, tmp_path, fault):
    (folder, seconds), rng = whole, random.Random(0)
    kills = writing = runs = 0
    with fault("SIGKILL at a random moment", tries=47):
        while kills < 47:
            run = tmp_path / str(runs)
            runs += 1
            while kills < 47:
                child, took_up = goes_on(run)
                if not kill_after(child, rng.uniform(0, seconds)):
                    seconds *= 0.9  # the machine was busy when the time was taken
                    break
                kills += 1
                writing += bool(list(run.glob("*.unfinished")))
                took_up()
            child, took_up = goes_on(run)
            assert ends(child) == 0
            took_up()
            equals(run, folder)
    assert writing, "none of the kills met a checkpoint being written"
    print(f"{kills} kills in {runs} runs, {writing} while a checkpoint was being written")


@pytest.mark.slow
@pytest.mark.faults
def test_a_run_of_mim_killed_three_times_ends_bit_identical(tmp_path, fault):
    """The real command is killed with all its processes."""
    photos = photographs.write(tmp_path / "photos", 24)
    command = [Path(sys.executable).parent / "mim", "train", "mmpretrain"]
    command += [ROOT / "tests/configs/xtra_tiny.py", "--resume", "--cfg-options"]
    command += [f"train_dataloader.dataset.data_root={photos.name}"]
    command += ["train_dataloader.batch_size=4", "train_dataloader.num_workers=1"]
    command += ["train_cfg.global_batch=4"]
    command += ["train_cfg.max_epochs=8", "model.backbone.drop_path_rate=0.0"]

    def start(folder, log):
        text = [str(part) for part in [*command, "--work-dir", folder]]
        return subprocess.Popen(
            text, stdout=log, stderr=subprocess.STDOUT, start_new_session=True, cwd=tmp_path
        )

    def lines(folder):
        files = sorted(folder.glob("*/vis_data/scalars.json"))
        found = [eval(line) for file in files for line in file.read_text().splitlines()]
        return [(line["step"], line["loss"]) for line in found if "loss" in line]

    with open(tmp_path / "log.txt", "w") as log, fault("SIGKILL of mim's processes", tries=3):
        assert start(tmp_path / "whole", log).wait() == 0
        expected, rng = dict(lines(tmp_path / "whole")), random.Random(1)
        assert len(expected) == 48
        for kill in range(3):
            process, made = start(tmp_path / "run", log), len(lines(tmp_path / "run"))
            while len(lines(tmp_path / "run")) == made and process.poll() is None:
                time.sleep(0.02)
            time.sleep(rng.uniform(0, 0.3))
            os.killpg(process.pid, signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL, f"kill {kill} came too late"
        assert start(tmp_path / "run", log).wait() == 0
        assert {*lines(tmp_path / "run")} == {*expected.items()}
