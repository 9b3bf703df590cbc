"""Test that a non-finite step changes no weight, is reported, and is never saved."""

import math
from itertools import pairwise

import pytest
import torch
from forked import ends, fork, train
from helpers import tiny_runs
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from torch.utils.data import Dataset

from xtra_toolkit.hooks import stop_on_non_finite_loss_hook as finite
from xtra_toolkit.hooks.stop_on_non_finite_loss_hook import StopOnNonFiniteLoss
from xtra_toolkit.utils.delayed_read import OneStepLate

STOP = dict(type="xtra_toolkit.StopOnNonFiniteLoss")
KEEP_ONE = dict(
    checkpoint=dict(type="CheckpointHook", interval=1, by_epoch=False, max_keep_ckpts=1)
)


class Spoil(Hook):
    """Call ``spoil(model)`` before an iteration."""

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
    [(nan_loss, "loss = nan"), (infinite_gradient, "norm of the gradients = nan")],
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


def test_the_message_says_that_there_is_no_checkpoint(build):
    with pytest.raises(FloatingPointError, match=r"iteration 1, epoch 1.*no checkpoint yet"):
        build(custom_hooks=[Spoil(0, nan_loss), STOP]).train()


def test_logged_values_other_than_losses_may_be_nan(build):
    runner = build(epochs=1, custom_hooks=[Spoil(0, nan_to_watch), STOP])
    runner.train()
    assert runner.iter == 4


class DividedBackwards(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad / 0


class Diverge(torch.nn.Module):
    """Divide by zero if the input is large, in the forward or the backward pass."""

    def __init__(self, where):
        super().__init__()
        self.divided = dict(forward=lambda x: x / 0, backward=DividedBackwards.apply)[where]

    def forward(self, x):
        return self.divided(x) if x.sum() > 1000 else x


class Deep(BaseModel):
    def __init__(self, where):
        super().__init__()
        self.first, self.second = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
        self.bad = Diverge(where)

    def forward(self, x, name, mode="tensor"):
        x = self.first(x.to(self.first.weight.dtype))
        return {"loss": self.second(self.bad(x)).float().square().mean()}


class Poisoned(Dataset):
    """Give eight vectors in order, one of them large."""

    metainfo = {}

    def __init__(self, *bad):
        self.bad = bad

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return {"x": torch.full((4,), 1e4 if index in self.bad else 1.0), "name": f"{index}.jpg"}


def poisoned(build, where, *bad, epochs=1, stop=(), **changes):
    model = Deep(where)
    torch.nn.init.constant_(model.first.weight, 1.0)
    loader = dict(
        dataset=Poisoned(*bad),
        sampler=dict(type="DefaultSampler", shuffle=False),
        batch_size=1,
        collate_fn=dict(type="default_collate"),
    )
    stepwise = dict(type="xtra_toolkit.AtomicCheckpointHook", interval=1, by_epoch=False)
    return build(
        epochs=epochs,
        model=model,
        train_dataloader=loader,
        default_hooks=dict(checkpoint=stepwise),
        custom_hooks=[dict(type="xtra_toolkit.SafeResume"), {**STOP, **dict(stop)}],
        **changes,
    )


@pytest.mark.parametrize(
    ("where", "layer"),
    [
        ("forward", r"It began in the forward pass of bad \(Diverge\)\."),
        ("backward", r"the backward pass: the gradient at the output of first \(Linear\)\."),
    ],
)
def test_the_message_names_the_first_non_finite_layer_and_the_batch_is_saved(
    build, tmp_path, where, layer
):
    with pytest.raises(FloatingPointError, match=f"stopped at iteration 4, epoch 1.*{layer}"):
        poisoned(build, where, 3).train()
    saved = torch.load(tmp_path / "nonfinite_iter_4.pt", weights_only=True)
    assert saved["data"] == {"x": saved["data"]["x"], "name": ["3.jpg"]}
    assert saved["data"]["x"].tolist() == [[1e4] * 4]
    assert (tmp_path / "last_checkpoint").read_text().endswith("iter_3.pth")


def flat(model):
    return torch.cat([param.detach().flatten() for param in model.parameters()])


class Weights(Hook):
    def __init__(self):
        self.after = []

    def after_train_iter(self, runner, *args, **kwargs):
        self.after.append(flat(runner.model))


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_a_step_may_be_skipped(build, tmp_path, where):
    runner, weights = poisoned(build, where, 3, 4, 6, stop=dict(skips=2)), Weights()
    runner.register_hook(weights)
    runner.train()
    still = [bool((a == b).all()) for a, b in pairwise(weights.after)]
    assert still == [False, False, True, True, False, True, False]
    assert weights.after[-1].isfinite().all()
    assert sorted(path.name for path in tmp_path.glob("*.pt")) == [
        "nonfinite_iter_4.pt",  # the first of each row
        "nonfinite_iter_7.pt",
    ]


def test_too_many_skipped_steps_in_a_row_stop_the_run(build):
    with pytest.raises(FloatingPointError, match="stopped at iteration 6"):
        poisoned(build, "forward", 3, 4, 5, stop=dict(skips=2)).train()


def test_the_replay_draws_the_random_numbers_of_the_step(build):
    """The step fails for one draw in eight, so another draw in the replay would not fail."""
    drawn = []

    class Lucky(Deep):
        def forward(self, x, name, mode="tensor"):
            drawn.append(draw := torch.rand(()).item())
            return super().forward(x * (1e4 if draw > 0.9 else 1), name)

    runner = poisoned(build, "forward", epochs=20)
    runner.model.__class__ = Lucky
    with pytest.raises(FloatingPointError, match=r"forward pass of bad"):
        runner.train()
    assert drawn[-1] == drawn[-2] > 0.9


def test_a_checkpoint_of_non_finite_weights_is_refused(build, tmp_path):
    class Spoilt(Hook):
        priority = "LOW"  # after the step was judged, before it is saved

        def after_train_iter(self, runner, *args, **kwargs):
            if runner.iter == 2:
                runner.model.second.bias.data[1] = float("inf")

    runner = poisoned(build, "forward")
    runner.register_hook(Spoilt())
    with pytest.raises(FloatingPointError, match=r"No checkpoint.*weight second\.bias is not fin"):
        runner.train()
    assert (tmp_path / "last_checkpoint").read_text().endswith("iter_2.pth")


@pytest.mark.parametrize("clip", [None, dict(max_norm=1.0)])
def test_the_gradients_of_bfloat16_copies_are_checked(build, tmp_path, clip):
    wrapper = dict(
        type="xtra_toolkit.MasterWeightsOptimWrapper",
        optimizer=dict(type="torch.optim.AdamW", lr=0.05, fused=True),
        clip_grad=clip,
    )
    runner = poisoned(build, "backward", 3, stop=dict(skips=1), optim_wrapper=wrapper)
    weights = Weights()
    runner.register_hook(weights)
    runner.train()
    assert [bool((a == b).all()) for a, b in pairwise(weights.after)].index(True) == 2
    assert weights.after[-1].isfinite().all()
    assert [path.name for path in tmp_path.glob("*.pt")] == ["nonfinite_iter_4.pt"]


def test_validation_batches_are_not_kept(build):
    runner = poisoned(build, "forward")
    runner.train()
    hook = next(hook for hook in runner.hooks if isinstance(hook, StopOnNonFiniteLoss))
    for training, held in ((False, 0), (True, 1)):
        runner.model.data_preprocessor({"x": torch.ones(1)}, training)
        assert len(hook._batches) == held


class SpoilRank(Hook):
    """Make a gradient NaN in the second process only."""

    def before_train(self, runner):
        if get_rank() == 1:
            spoilt = lambda grad: grad / 0 if runner.iter == 2 else grad  # noqa: E731
            runner.model.layer.weight.register_hook(spoilt)


def of_two(rank, folder, place):
    torch.distributed.init_process_group("gloo", f"file://{place}", rank=rank, world_size=2)
    with pytest.raises(FloatingPointError, match=r"iteration 3.*norm of the gradients = nan"):
        train(folder, ballast=1, hooks=[SpoilRank(), STOP])


def test_all_processes_stop_at_a_non_finite_loss_in_one(tmp_path):
    children = [fork(of_two, rank, tmp_path / "run", tmp_path / "place") for rank in (0, 1)]
    assert [ends(child) for child in children] == [0, 0]
    saved = sorted(path.name for path in (tmp_path / "run").glob("*.pt"))
    assert saved == ["nonfinite_iter_3_rank_0.pt", "nonfinite_iter_3_rank_1.pt"]


class LaterDevice:
    """Return the values of the step before, as on a GPU."""

    def __init__(self):
        self.waiting = None

    def __call__(self, values, note):
        known, self.waiting = self.waiting, (values.tolist(), note)
        return known

    def flush(self):
        known, self.waiting = self.waiting, None
        return known


def test_weights_are_unchanged_although_the_result_is_read_one_step_later(build, tmp_path):
    runner = poisoned(build, "forward", 3)
    hook = next(hook for hook in runner.hooks if type(hook).__name__ == "StopOnNonFiniteLoss")
    hook._late = LaterDevice()
    with pytest.raises(FloatingPointError, match=r"stopped at iteration 4.*pass of bad"):
        runner.train()
    last = torch.load(tmp_path / "iter_4.pth", weights_only=True)["state_dict"]
    before = torch.load(tmp_path / "iter_3.pth", weights_only=True)["state_dict"]
    assert all(torch.equal(last[name], before[name]) for name in last)


def test_the_last_step_is_checked_before_the_epoch_is_saved(build, tmp_path):
    runner = poisoned(build, "forward", 7)
    hook = next(hook for hook in runner.hooks if type(hook).__name__ == "StopOnNonFiniteLoss")
    hook._late = LaterDevice()
    with pytest.raises(FloatingPointError, match="stopped at iteration 8"):
        runner.train()


@pytest.mark.gpu
def test_the_host_does_not_wait_for_cuda(build):
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(3, device="cuda"))], fused=True)
    (param,) = optimizer.param_groups[0]["params"]
    hook, late = StopOnNonFiniteLoss(), OneStepLate()
    optimizer.register_step_pre_hook(hook._before_update)
    grads = [torch.ones(3, device="cuda"), torch.full((3,), float("nan"), device="cuda")]
    torch.cuda.set_sync_debug_mode("error")
    try:
        for grad in grads:
            param.grad = grad
            optimizer.step()
            late(torch.stack(hook._norms[-1:]))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert param.isfinite().all() and math.isnan(late.flush()[0][0])
    assert optimizer.state[param]["step"].item() == 1


@pytest.mark.parametrize(
    "wrapper",
    [{}, dict(type="xtra_toolkit.MasterWeightsOptimWrapper")],
    ids=["float32", "masters"],
)
def test_the_norm_of_clipping_is_reused_without_a_change(wrapper, tmp_path, monkeypatch):
    counts = []
    total = finite.get_total_norm
    monkeypatch.setattr(finite, "get_total_norm", lambda x: counts.append(len(x)) or total(x))
    wrapper = dict(optimizer=dict(type="AdamW", lr=1e-3), clip_grad=dict(max_norm=0.1)) | wrapper
    safe = dict(type="xtra_toolkit.SafeResume")
    options = dict(
        train_cfg=dict(type="xtra_toolkit.GlobalBatchLoop", max_epochs=2, global_batch=8)
    )
    options["optim_wrapper"] = wrapper
    plain, one = tiny_runs.run(tmp_path / "plain", "XTRA", custom_hooks=[safe], **options)
    watched, other = tiny_runs.run(
        tmp_path / "watched", "XTRA", custom_hooks=[safe, STOP], **options
    )
    assert counts == [1] * 10  # only the norm of clipping was computed
    assert one.losses == other.losses
    for part in ("model", "optim_wrapper"):
        first, second = (tiny_runs.flat(getattr(r, part).state_dict()) for r in (plain, watched))
        assert first == second


def test_infinite_gradients_found_by_clipping_stop_the_run(build, tmp_path):
    runner = build(
        optim_wrapper=dict(optimizer=dict(type="AdamW", lr=0.05), clip_grad=dict(max_norm=1.0)),
        custom_hooks=[Spoil(5, infinite_gradient), STOP],
        default_hooks=KEEP_ONE,
    )
    with pytest.raises(FloatingPointError, match=r"iteration 6, epoch 2: .*gradients = (nan|inf)"):
        runner.train()
