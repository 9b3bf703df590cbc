"""Test bfloat16 weights with float32 parameters: updates, sums and checkpoints are in float32."""

import copy

import pytest
import torch
from helpers.builds import XTRA, pretrainer
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from xtra_toolkit.engine import AutocastOptimWrapper, MasterWeightsOptimWrapper, master_adamw


class Line(nn.Module):
    """Return the mean of outputs as the loss; inputs have the dtype of the weight."""

    def __init__(self, recompute=False):
        super().__init__()
        self.linear, self.recompute, self.dtypes = nn.Linear(7, 3), recompute, []
        self.frozen = nn.Parameter(torch.ones(1), requires_grad=False)
        self.target_generator = nn.Linear(1, 1).requires_grad_(False)  # a teacher

    def forward(self, x):
        if self.recompute:
            return checkpoint(self.inner, x, use_reentrant=False).float().square().mean()
        return self.inner(x).float().square().mean()

    def inner(self, x):
        weight = self.linear.weight
        teacher = self.target_generator.weight
        self.dtypes.append((weight.dtype, self.frozen.dtype, teacher.dtype))
        return self.linear(x.to(weight.dtype)).sin()


def wrapper(model, adamw=None, **options):
    adamw = dict(lr=1e-2, fused=True) | (adamw or {})
    return MasterWeightsOptimWrapper(torch.optim.AdamW(model.parameters(), **adamw), **options)


def step(model, optim, x):
    with optim.optim_context(model):
        loss = model(x)
    optim.update_params(loss)
    return float(loss.detach())


def lines(count=2, **options):
    torch.manual_seed(0)
    model = Line(**options)
    return [copy.deepcopy(model) for _ in range(count)]


def test_losses_are_within_2_percent_of_float32():
    torch.manual_seed(0)
    images = torch.randn(4, 3, 8, 8).repeat_interleave(8, 2).repeat_interleave(8, 3)
    images = images + 0.3 * torch.randn(4, 3, 64, 64)
    losses = []
    for half in (False, True):
        torch.manual_seed(1)
        model = pretrainer(*XTRA)
        model.init_weights()
        adamw = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05, fused=True)
        kind = MasterWeightsOptimWrapper if half else AutocastOptimWrapper
        optim, losses_of_it = kind(optimizer=adamw, clip_grad=dict(max_norm=1.0)), []
        for _ in range(40):
            with optim.optim_context(model):
                loss = model.loss(images)["loss"]
            assert loss.dtype == torch.float32
            optim.update_params(loss)
            losses_of_it.append(loss.detach())
        losses.append(torch.stack(losses_of_it))
    assert losses[0][-1] < 0.99 * losses[0][0]
    assert ((losses[1] / losses[0]) - 1).abs().max() < 0.02
    assert not torch.equal(*losses)


def test_updates_below_the_spacing_of_bfloat16_are_kept():
    """Half of the spacing of bfloat16 below 1 is 20 steps of 1e-4."""
    model = nn.Module()
    model.weight = nn.Parameter(torch.ones(4))
    optim = wrapper(model, dict(lr=1e-4, weight_decay=0))
    alone = nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    plain = torch.optim.AdamW([alone], lr=1e-4, weight_decay=0)
    seen = []
    for _ in range(30):
        with optim.optim_context(model):
            seen.append(float(model.weight[0].detach()))
            loss = model.weight.float().sum()
        optim.update_params(loss)
        alone.grad = torch.ones_like(alone)
        plain.step()
    assert (alone == 1).all()
    torch.testing.assert_close(model.weight.detach(), torch.full((4,), 0.997))
    assert seen[10] == 1 and seen[-1] == 0.99609375


def test_weights_are_bfloat16_within_a_step_and_float32_outside():
    (model,) = lines(1)
    optim, masters = wrapper(model), list(model.parameters())
    step(model, optim, torch.randn(5, 7))
    # a teacher stays float32
    assert model.dtypes == [(torch.bfloat16, torch.bfloat16, torch.float32)]
    assert all(p is q for p, q in zip(model.parameters(), masters, strict=True))
    assert {p.dtype for p in masters} == {torch.float32}
    with pytest.raises(RuntimeError, match="inner"), optim.optim_context(model):
        raise RuntimeError("inner")
    assert model.linear.weight is masters[0] or model.linear.weight is masters[1]


@pytest.mark.parametrize("clip", [None, dict(max_norm=1e-3), dict(max_norm=1e-3, norm_type=1)])
def test_an_update_equals_that_of_adamw(clip, monkeypatch):
    monkeypatch.setitem(master_adamw.CHUNK_SIZES, "cpu", 5)  # 21 weights in 5 parts
    model, other = lines()
    optim, x = wrapper(model, clip_grad=clip and dict(clip)), torch.randn(5, 7)
    plain = torch.optim.AdamW(other.parameters(), lr=1e-2, fused=True)
    for _ in range(3):
        with optim.optim_context(model):
            loss = model(x)
        optim.backward(loss)
        grads = [half.grad.float() for half in optim.optimizer.bf16_copies.values()]
        for p, grad in zip(other.linear.parameters(), grads, strict=True):
            p.grad = grad
        if clip:
            torch.nn.utils.clip_grad_norm_(other.parameters(), **clip)
        plain.step()
        optim.step()
        optim.zero_grad()
        for p, q in zip(model.linear.parameters(), other.linear.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-9)
            half = optim.optimizer.bf16_copies[p]
            assert half.grad is None and torch.equal(half, p.bfloat16())


def test_gradients_are_accumulated_in_float32():
    """A bfloat16 sum of 300 gradients of 1 would stay at 256."""
    model = nn.Module()
    model.weight = nn.Parameter(torch.ones(2))
    optim = wrapper(model, accumulative_counts=301)
    for _ in range(300):
        with optim.optim_context(model):
            loss = 301 * model.weight.float().sum()
        optim.update_params(loss)
    torch.testing.assert_close(model.weight.grad, torch.full((2,), 300.0))
    assert optim.optimizer.bf16_copies[model.weight].grad is None


def test_distributed_gradients_are_float32_and_reach_the_reducer(tmp_path):
    (model,) = lines(1)
    torch.distributed.init_process_group("gloo", f"file://{tmp_path}/s", rank=0, world_size=1)
    try:
        ddp, x = DistributedDataParallel(model), torch.randn(5, 7)
        reduced = []
        ddp.register_comm_hook(reduced, note)
        optim = wrapper(ddp)
        with optim.optim_context(ddp):
            loss = ddp(x)
        optim.backward(loss)
        (bucket,) = reduced
        assert bucket.dtype == torch.float32 and bucket.abs().sum() > 0
        assert model.linear.weight.grad.dtype == torch.float32
        before = model.linear.weight.detach().clone()
        optim.step()
        assert not torch.equal(model.linear.weight, before)
    finally:
        torch.distributed.destroy_process_group()


def note(reduced, bucket):
    reduced.append(bucket.buffer().clone())
    future = torch.futures.Future()
    future.set_result(bucket.buffer())
    return future


def test_recomputed_activations_are_bfloat16():
    model, other = lines()
    model.recompute = True
    x = torch.randn(5, 7)
    for one in (model, other):
        step(one, wrapper(one), x)
    assert model.dtypes == [(torch.bfloat16, torch.bfloat16, torch.float32)] * 2
    torch.testing.assert_close(model.linear.weight, other.linear.weight, rtol=0, atol=0)


@pytest.mark.parametrize(
    "frozen", ["backbone", "neck", "head", "backbone.layers.0", "backbone.ln1"]
)
def test_frozen_parts_run_in_bfloat16(frozen):
    model = pretrainer(*XTRA)
    part = model.get_submodule(frozen).requires_grad_(False)
    before = copy.deepcopy(part.state_dict())
    optim = wrapper(model)
    with optim.optim_context(model):
        loss = model.loss(torch.randn(2, 3, 64, 64))["loss"]
    optim.update_params(loss)
    assert loss.dtype == torch.float32
    assert all(torch.equal(value, before[name]) for name, value in part.state_dict().items())


def test_a_parameter_frozen_during_training_is_not_updated():
    (model,) = lines(1)
    optim, x = wrapper(model), torch.randn(5, 7)
    step(model, optim, x)
    model.linear.bias.requires_grad_(False)
    before = model.linear.bias.clone(), model.linear.weight.clone()
    step(model, optim, x)
    assert torch.equal(model.linear.bias, before[0])
    assert not torch.equal(model.linear.weight, before[1])


def test_gradients_of_parameters_and_their_copies_are_added():
    (model,) = lines(1)
    x = torch.randn(5, 7)
    optim = wrapper(model, clip_grad=dict(max_norm=1e-3))
    with optim.optim_context(model):
        loss = model(x)
    weights = model.linear.weight  # outside of the step: the master
    optim.backward(loss + 50 * weights.square().sum())
    got = {p: h.grad.float() for p, h in optim.optimizer.bf16_copies.items()}
    expected = weights.detach() * 100 + got[weights]
    optim.optimizer.collect()
    torch.testing.assert_close(weights.grad, expected)
    optim.step()


def test_a_resumed_run_is_exact_and_its_checkpoint_is_float32():
    model, later = lines()
    optim, batches = wrapper(model), torch.randn(6, 5, 7)
    for x in batches[:3]:
        step(model, optim, x)
    weights, state = copy.deepcopy(model.state_dict()), copy.deepcopy(optim.state_dict())
    assert {value.dtype for value in weights.values()} == {torch.float32}
    resumed = wrapper(later)
    step(later, resumed, batches[0])  # its former copies are dropped
    later.load_state_dict(weights)
    resumed.load_state_dict(state)
    for x in batches[3:]:
        assert step(model, optim, x) == step(later, resumed, x)
    assert all(
        torch.equal(p, q) for p, q in zip(model.parameters(), later.parameters(), strict=True)
    )

    adamw = torch.optim.AdamW(later.parameters(), lr=1e-2, fused=True)
    adamw.load_state_dict(state)  # and a float32 run resumes it
    assert all(len(s) == 3 for s in adamw.state.values()) and len(adamw.state) == 2


def test_parameter_groups_and_schedules_are_those_of_adamw():
    (model,) = lines(1)
    groups = [dict(params=[p], weight_decay=i, lr=0.0) for i, p in enumerate(model.parameters())]
    optim = MasterWeightsOptimWrapper(torch.optim.AdamW(groups, fused=True))
    before = [p.detach().clone() for p in model.parameters()]
    step(model, optim, torch.randn(5, 7))
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    optim.optimizer.param_groups[1]["lr"] = 1e-2
    step(model, optim, torch.randn(5, 7))
    moved = [not torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True)]
    assert sum(moved) == 1


def test_other_optimizers_are_refused():
    (model,) = lines(1)
    with pytest.raises(ValueError, match=r"need AdamW, and the optimizer is SGD.*AutocastOptim"):
        MasterWeightsOptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(ValueError, match="do not support amsgrad of AdamW; leave out"):
        wrapper(model, dict(amsgrad=True))
    model.double()
    with pytest.raises(ValueError, match=r"shape \(3, 7\) is torch.float64"):
        step(model, wrapper(model), torch.randn(5, 7))


@pytest.mark.parametrize("counts", [1, 2])
def test_an_optimizer_copied_with_its_model_trains_alike(counts):
    """The copy is made between two steps, since torch copies no gradients of parameters."""
    (model,) = lines(1)
    optim = wrapper(model, clip_grad=dict(max_norm=0.1), accumulative_counts=counts)
    batches = torch.randn(8, 5, 7)
    for x in batches[:4]:
        step(model, optim, x)
    twin, other = copy.deepcopy((model, optim))
    before = twin.linear.weight.detach().clone()
    for x in batches[4:]:
        assert step(model, optim, x) == step(twin, other, x)
    assert torch.equal(twin.linear.weight, model.linear.weight)
    assert not torch.equal(twin.linear.weight, before)
    assert twin.dtypes[-1][0] == torch.bfloat16 and twin.linear.weight is not model.linear.weight


def test_an_optimizer_copied_without_its_model_is_refused():
    (model,) = lines(1)
    optim = wrapper(model)
    step(model, optim, torch.randn(5, 7))
    with pytest.raises(ValueError, match=r"none of the model's .*deepcopy\(\(model, optim_wrapper"):
        step(model, copy.deepcopy(optim), torch.randn(5, 7))
