"""Test that checkpoints load with torch's safe default."""

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer

from xtra_toolkit.hooks import SafeResume
from xtra_toolkit.utils.safe_encoding import decode, encode

SAFE = [dict(type="xtra_toolkit.SafeResume")]


@pytest.fixture(autouse=True)
def no_way_out(monkeypatch):
    monkeypatch.delenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", raising=False)


def weights(runner):
    return torch.cat([param.detach().flatten() for param in runner.train().parameters()])


def test_mmengine_still_saves_checkpoints_that_torch_refuses(build, tmp_path):
    """If this fails, MMEngine or torch has corrected it, and SafeResume is no longer needed."""
    build(epochs=1).train()
    with pytest.raises(Exception, match="Weights only load failed"):
        torch.load(tmp_path / "epoch_1.pth")


def test_a_resumed_run_ends_like_an_uninterrupted_run(build):
    whole = weights(build(epochs=4))
    weights(build(epochs=2, custom_hooks=SAFE))
    second = build(epochs=4, custom_hooks=SAFE, resume=True)
    assert torch.equal(weights(second), whole)
    losses = second.message_hub.get_scalar("train/loss")
    assert isinstance(losses, HistoryBuffer)
    assert len(losses._log_history) == 16


class Odd(Hook):
    """Leave values of other types in the checkpoint, as hooks do."""

    def before_train(self, runner):
        runner.message_hub.update_info("best_score", np.float32(0.5))
        runner.message_hub.update_info("confusion", np.eye(2, dtype=np.int64))
        runner.message_hub.update_info("options", ConfigDict(a=[1, (2, np.str_("x"))]))


def test_values_of_hooks_and_data_sets_load(build, tmp_path):
    class Described(type(build().train_dataloader.dataset)):
        metainfo = {"palette": np.array([[1, 2, 3]]), "names": np.array(["a", "bc"])}

    hooks = [Odd(), *SAFE, dict(type="EMAHook")]
    whole = weights(build(epochs=2, dataset=Described(), custom_hooks=hooks))
    build(epochs=1, dataset=Described(), custom_hooks=hooks).train()
    checkpoint = torch.load(tmp_path / "epoch_1.pth", weights_only=True)
    assert checkpoint["message_hub"]["runtime_info"]["best_score"] == 0.5
    resumed = build(epochs=2, dataset=Described(), custom_hooks=hooks, resume=True)
    assert torch.equal(weights(resumed), whole)
    SafeResume().after_load_checkpoint(None, checkpoint)
    info = checkpoint["message_hub"]["runtime_info"]
    assert np.array_equal(info["confusion"], np.eye(2))
    assert info["options"] == {"a": [1, (2, "x")]}
    assert info["dataset_meta"]["names"].tolist() == ["a", "bc"]


def test_encoding_and_decoding_are_inverse():
    buffer = HistoryBuffer([1.5, 2.5, 4.0], [1, 1, 2], max_length=9)
    back = decode(encode({"a": [buffer]}))["a"][0]
    assert back._log_history.tolist() == [1.5, 2.5, 4.0]
    assert back._count_history.tolist() == [1, 1, 2]
    assert back.max_length == 9
    assert back.mean() == buffer.mean()
    assert decode(encode({1: (2, None, "x")})) == {1: (2, None, "x")}


def test_plain_weights_still_load(build, tmp_path):
    runner = build(custom_hooks=SAFE)
    trained = {name: 2 + value for name, value in runner.model.state_dict().items()}
    torch.save({"state_dict": trained}, tmp_path / "weights.pth")
    runner.load_checkpoint(str(tmp_path / "weights.pth"))
    for name, value in runner.model.state_dict().items():
        assert torch.equal(value, trained[name])


def test_the_history_of_scalars_is_bounded(build, tmp_path):
    """Checkpoints keep their size, and a longer history is shortened when it is resumed."""
    long = dict(type="xtra_toolkit.SafeResume")
    build(epochs=2, custom_hooks=[long]).train()
    short = dict(long, history=5)
    runner = build(epochs=4, custom_hooks=[short], resume=True)
    runner.train()
    saved = torch.load(tmp_path / "epoch_4.pth", weights_only=True)["message_hub"]["log_scalars"]
    assert saved.keys() >= {"train/loss", "train/lr", "train/time"}
    assert {len(scalar["log_history"]) for scalar in saved.values()} == {5}
    losses = runner.message_hub.get_scalar("train/loss")
    assert losses.max_length == 5 and losses.mean(10) == losses._log_history.mean()
    with pytest.raises(ValueError, match="history=0"):
        SafeResume(history=0)
