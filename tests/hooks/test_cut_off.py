"""Test that an interrupted validation is repeated, and the run ends like an uninterrupted one."""

import json
import os
import signal

import pytest
import torch
from forked import ends, fork, last, losses, train, until, validation

BEST = dict(by_epoch=True, save_best="val/loss", rule="less")


def run(folder, pause=0.0):
    folder.mkdir(exist_ok=True)
    train(folder, ballast=1, checkpoint=BEST, **validation(folder, pause))


def begun(folder):
    file = folder / "validations.txt"
    return len(file.read_text().splitlines()) if file.exists() else 0


def metrics(folder):
    """Return the logged loss of each epoch's validation; a later one replaces it."""
    lines = [
        json.loads(line)
        for file in sorted(folder.glob("*/vis_data/scalars.json"))
        for line in file.read_text().splitlines()
    ]
    return {line["step"]: line["val/loss"] for line in lines if "val/loss" in line}


@pytest.mark.faults
@pytest.mark.parametrize("epoch", [1, 2, 4], ids="of epoch {}".format)
def test_an_interrupted_validation_is_repeated(tmp_path, epoch, fault):
    assert ends(fork(run, tmp_path / "whole")) == 0
    folder = tmp_path / "run"
    with fault("SIGKILL in a validation"):
        child = fork(run, folder, 0.5)
        until(lambda: begun(folder) >= epoch)
        os.kill(child, signal.SIGKILL)
        assert ends(child) == -signal.SIGKILL
        assert epoch not in metrics(folder)
        assert ends(fork(run, folder)) == 0
        assert metrics(folder) == metrics(tmp_path / "whole")
        assert losses(folder) == losses(tmp_path / "whole")
        best, expected = (next(place.glob("best_*.pth")) for place in (folder, tmp_path / "whole"))
        assert best.name == expected.name
        weights, whole = (
            torch.load(path, weights_only=True)["state_dict"] for path in (best, expected)
        )
        torch.testing.assert_close(weights, whole, rtol=0, atol=0)
        infos = [
            last(place)["message_hub"]["runtime_info"] for place in (folder, tmp_path / "whole")
        ]
        assert infos[0]["best_score"] == infos[1]["best_score"]


def test_a_finished_validation_is_not_repeated(tmp_path):
    """The checkpoint that a better score updated records the validation."""
    folder = tmp_path / "run"
    assert ends(fork(run, folder)) == 0
    info = last(folder)["message_hub"]["runtime_info"]
    assert info["validated_epoch"] == 4 and begun(folder) == 4
    assert ends(fork(run, folder)) == 0
    assert begun(folder) == 4
