"""Training stops before a step that went wrong is kept."""

import pytest
import torch
from mmengine.hooks import Hook

STOP = dict(type="xtra_toolkit.StopOnNonFiniteLoss")
KEEP_ONE = dict(
    checkpoint=dict(type="CheckpointHook", interval=1, by_epoch=False, max_keep_ckpts=1)
)


class Spoil(Hook):
    """Calls ``spoil(model)`` before an iteration."""

    def __init__(self, iteration, spoil):
        self.iteration, self.spoil = iteration, spoil

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.iteration:
            self.spoil(runner.model)


def nan_loss(model):
    model.parse_losses = lambda losses: (losses["loss"], {"loss": torch.tensor(float("nan"))})


def infinite_gradient(model):
    model.layer.weight.register_hook(lambda gradient: gradient / 0)


def nan_to_watch(model):
    parse = model.parse_losses

    def with_nan(losses):
        loss, logs = parse(losses)
        return loss, {**logs, "psnr": torch.tensor(float("nan"))}

    model.parse_losses = with_nan


@pytest.mark.parametrize(
    ("spoil", "value"),
    [(nan_loss, "loss = nan"), (infinite_gradient, "norm of the weights = nan")],
)
def test_the_last_good_checkpoint_is_kept_and_named(build, tmp_path, spoil, value):
    runner = build(custom_hooks=[Spoil(5, spoil), STOP], default_hooks=KEEP_ONE)
    with pytest.raises(FloatingPointError) as caught:
        runner.train()
    sentence = str(caught.value)
    assert "iteration 6, epoch 2" in sentence and value in sentence
    kept = tmp_path / "iter_5.pth"
    assert f"untouched: {kept}" in sentence and "clip_grad" in sentence
    assert list(tmp_path.glob("*.pth")) == [kept]
    state = torch.load(kept, weights_only=False)["state_dict"]
    assert all(tensor.isfinite().all() for tensor in state.values())


def test_without_a_checkpoint_the_sentence_says_so(build):
    with pytest.raises(FloatingPointError, match=r"iteration 1, epoch 1.*no checkpoint yet"):
        build(custom_hooks=[Spoil(0, nan_loss), STOP]).train()


def test_values_that_are_only_watched_may_be_nan(build):
    runner = build(epochs=1, custom_hooks=[Spoil(0, nan_to_watch), STOP])
    runner.train()
    assert runner.iter == 4
