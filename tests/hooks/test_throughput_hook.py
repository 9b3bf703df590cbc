"""Test images per second and the remaining time for steps of several micro-batches."""

import json
import re

import pytest
from helpers import tiny_runs
from mmengine.hooks import Hook

from xtra_toolkit.engine.accumulation import Accumulated

STEP, SLOW = 1.0, 10.0  # seconds


class Clock(Hook):
    """Replace the clock: each step takes a second, and the first one ten."""

    priority = "HIGHEST"

    def __init__(self, monkeypatch, now=0.0):
        self.now, self.steps = now, 0
        monkeypatch.setattr("mmengine.hooks.iter_timer_hook.time.time", lambda: self.now)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.now += STEP if self.steps else SLOW
        self.steps += 1


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Return a function that trains tiny XTRA, 15 steps of 8 digits in micro-batches of 2."""

    def run(**changes):
        timer = dict(type="xtra_toolkit.Throughput")
        hooks = dict(
            timer=timer,
            logger=dict(type="LoggerHook", interval=1),
            checkpoint=dict(type="CheckpointHook", interval=7, by_epoch=False),
        )
        changes = dict(default_hooks=hooks, log_level="INFO") | changes
        return tiny_runs.run(tmp_path, "XTRA", batch_size=2, **changes)[0]

    return run


def scalars(folder):
    file = max(folder.glob("*/vis_data/scalars.json"))
    return [json.loads(line) for line in file.read_text().splitlines()]


def left(folder):
    """Return the remaining seconds in each line of the log."""
    log = max(folder.glob("*/*.log")).read_text()
    times = re.findall(r"Epoch\(train\).* eta: (\d+):(\d+):(\d+)  time: ", log)
    return [3600 * int(h) + 60 * int(m) + int(s) for h, m, s in times]


def test_images_per_second_is_an_average_over_the_window(run, tmp_path, monkeypatch):
    clock = Clock(monkeypatch)
    run(custom_hooks=[clock, dict(type="xtra_toolkit.SafeResume")])
    lines = scalars(tmp_path)
    rates = [line["images_per_second"] for line in lines]
    assert rates[0] == pytest.approx(8 / SLOW)
    assert rates[1] == pytest.approx(16 / (SLOW + STEP))  # a mean of rates would be 4.4
    assert rates[9] == pytest.approx(80 / (SLOW + 9 * STEP))
    assert rates[10:] == pytest.approx([8 / STEP] * 5)  # the first step has left the window of ten
    assert all(r == pytest.approx(8 / x["time"]) for r, x in zip(rates, lines, strict=True))
    log = max(tmp_path.glob("*/*.log")).read_text()
    assert len(re.findall(r"Epoch\(train\).*images_per_second: 8\.0000", log)) == 5


def test_the_eta_counts_global_batches_from_the_resumed_step(run, tmp_path, monkeypatch):
    run(custom_hooks=[Clock(monkeypatch), dict(type="xtra_toolkit.SafeResume")])
    passed = [SLOW + STEP * i for i in range(15)]
    assert left(tmp_path) == [int(t / (i + 1) * (14 - i)) for i, t in enumerate(passed)]
    run(
        custom_hooks=[Clock(monkeypatch, now=1e6), dict(type="xtra_toolkit.SafeResume")],
        load_from=str(tmp_path / "iter_7.pth"),
        resume=True,
    )
    assert left(tmp_path) == [int(t / (i + 1) * (7 - i)) for i, t in enumerate(passed[:8])]


class Slow:
    """Load each micro-batch in a second."""

    def __init__(self, clock):
        self.clock = clock

    def __iter__(self):
        for number in range(5):
            self.clock.append(1)
            yield number


def test_data_time_includes_all_micro_batches(monkeypatch):
    clock = []
    monkeypatch.setattr("xtra_toolkit.engine.accumulation.time.perf_counter", lambda: len(clock))
    steps = iter(Accumulated(loader := Slow(clock), 2))
    first = next(steps)
    assert next(first) == 0 and loader.waited == 1
    clock.append(1)  # spent in the step, not in waiting
    assert list(first) == [1] and loader.waited == 2
    assert [list(step) for step in steps] == [[2, 3], [4]] and loader.waited == 5


class Waiting(Hook):
    """Let each step wait a quarter of a second for images, and hooks take five seconds after it."""

    priority = "LOWEST"

    def __init__(self, clock):
        self.clock = clock

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.clock.now += 5

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        runner.train_loop.dataloader.waited += 0.25


def test_data_time_excludes_the_hooks_of_the_step_before(run, tmp_path, monkeypatch):
    clock = Clock(monkeypatch)
    monkeypatch.setattr("xtra_toolkit.engine.accumulation.time.perf_counter", lambda: clock.now)
    run(custom_hooks=[clock, Waiting(clock)])
    loaded = [line["data_time"] for line in scalars(tmp_path)]
    assert loaded == pytest.approx([0.25] * 15)


def test_in_mmengines_loop_a_step_counts_a_batch_of_each_process(build, tmp_path, monkeypatch):
    monkeypatch.setattr("xtra_toolkit.hooks.throughput_hook.get_world_size", lambda: 3)
    hooks = dict(
        timer=dict(type="xtra_toolkit.Throughput"), logger=dict(type="LoggerHook", interval=1)
    )
    build(epochs=1, default_hooks=hooks).train()
    lines = scalars(tmp_path)
    assert len(lines) == 4  # batches of 2
    assert all(line["images_per_second"] == pytest.approx(6 / line["time"]) for line in lines)
