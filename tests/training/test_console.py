"""What ``xtra train`` prints while it trains."""

import time
from types import SimpleNamespace

import pytest

from xtra_toolkit.training import console


@pytest.fixture
def lines(monkeypatch, capsys):
    """Return a function that trains so many steps, the first in 10 s and the others in 1 s."""
    clock = [0.0]
    monkeypatch.setattr(console, "_brief", True)
    monkeypatch.setattr(time, "time", lambda: clock[0])

    def train(total):
        hook, runner = console.ProgressHook(), SimpleNamespace(iter=0, max_iters=total)
        hook.before_train(runner)
        for runner.iter in range(total):
            clock[0] += 1 if runner.iter else 10
            hook.after_train_iter(runner, 0, outputs=dict(loss=0.5))
        return capsys.readouterr().out.splitlines()

    return train


def test_the_time_that_is_left_does_not_count_the_slow_first_step(lines):
    first, third, later, *_, last = lines(100)
    assert first.startswith("the first step took 10.0 s; at this pace the other 99 take 0:16:30")
    assert third == "step 3 of 100  loss 0.5000  0:01:37 left"
    assert later == "step 33 of 100  loss 0.5000  0:01:07 left"
    assert last == "step 100 of 100  loss 0.5000  0:00:00 left"


def test_a_short_run_prints_the_loss_of_each_step(lines):
    first, *steps = lines(3)
    assert first.startswith("the first step")
    assert steps == [
        "step 1 of 3  loss 0.5000",
        "step 2 of 3  loss 0.5000  0:00:01 left",
        "step 3 of 3  loss 0.5000  0:00:00 left",
    ]
