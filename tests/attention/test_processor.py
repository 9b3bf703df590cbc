"""Test which back end 'auto' uses for short bfloat16 sequences, by the features of the CPU."""

import pytest
import torch
from helpers.processes import on_two
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.utils.checkpoint import checkpoint

from xtra_toolkit.attention import Pattern, attention, choose
from xtra_toolkit.attention import processor as cpu

FULL = Pattern("full", 64)


def query(**kwargs):
    return torch.ones(1, 64, 2, 16, dtype=torch.bfloat16, requires_grad=True, **kwargs)


@pytest.fixture
def measured(processor, monkeypatch):
    """Return a function that sets what a measurement on an unknown CPU finds, and counts them."""
    processor(None)
    taken = []

    def find(ratio):
        monkeypatch.setattr(cpu, "_measure", lambda: taken.append(ratio) or ratio)
        return taken

    return find


@pytest.mark.parametrize("name", ["AMX", "AVX-512 bf16"])
def test_a_known_processor_takes_matmul_and_is_not_measured(name, processor, monkeypatch):
    processor(name)
    monkeypatch.setattr(cpu, "_measure", lambda: pytest.fail("measured"))
    assert choose(query(), FULL) == "matmul"
    assert cpu.reason() == f"matmul, since the processor has {name}"


@pytest.mark.parametrize(("ratio", "backend"), [(0.5, "sdpa"), (1.1, "sdpa"), (2.5, "matmul")])
def test_an_unknown_processor_is_measured_once(ratio, backend, measured):
    taken = measured(ratio)
    assert [choose(query(), FULL) for _ in range(3)] == [backend] * 3
    assert taken == [ratio]
    assert cpu.reason() == f"{backend}, since matmul was measured {ratio:.2f} times as fast as sdpa"


def test_what_needs_no_gradient_or_no_bfloat16_is_not_measured(measured):
    taken = measured(2.5)
    assert choose(query().detach(), FULL) == choose(query().float(), FULL) == "sdpa"
    with torch.inference_mode():
        assert choose(query().clone(), FULL) == "sdpa"
    assert not taken


def test_a_fake_or_compiled_call_is_not_measured(measured):
    taken = measured(2.5)
    with FakeTensorMode():
        assert choose(query(), FULL) == "sdpa"
    found = []
    compiled = torch.compile(
        lambda q: q + len(found.append(choose(q, FULL)) or ""), backend="eager"
    )
    compiled(query())
    assert found == ["sdpa"] and not taken


def test_the_measurement_is_real_and_leaves_no_trace(processor):
    """Check that measuring within autocast and a checkpoint draws no random numbers."""
    processor(None)
    layer, before = nn.Linear(16, 16), torch.get_rng_state()

    def block(x):
        q = layer(x).unflatten(2, (1, 16))
        return attention(q, q, q, FULL)

    x = torch.randn(1, 64, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        checkpoint(block, x, use_reentrant=False).float().sum().backward()
    assert layer.weight.grad.abs().sum() > 0
    assert torch.equal(torch.get_rng_state(), before)
    backend, ratio = cpu.measured()
    assert ratio > 0 and backend == ("matmul" if ratio >= cpu.MARGIN else "sdpa")


def test_all_processes_take_what_the_first_one_found(measured, tmp_path):
    def found(rank, folder):
        cpu._measure = lambda: (2.5, 0.5)[rank]
        if rank == 1:  # it comes later: no collective makes the other wait
            torch.distributed.distributed_c10d._get_default_store().wait(
                ["xtra_toolkit/matmul_over_sdpa"]
            )
        return choose(query(), FULL), cpu.measured()

    measured(1.0)
    assert on_two(found, tmp_path) == [("matmul", ("matmul", 2.5))] * 2
