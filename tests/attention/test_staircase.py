"""Test the staircase back end and its tiles on long and uneven steps, and the chunks of matmul."""

import pytest
import torch
from helpers.attention_calls import assert_as_eager, block_pattern, qkv
from torch.utils.checkpoint import checkpoint

from xtra_toolkit.attention import Pattern, attention, matmul, staircase


def uneven(seed, length=700):
    """Return a staircase with steps of 1 to 150 positions."""
    widths = torch.randint(1, 150, (length,), generator=torch.Generator().manual_seed(seed))
    ends = widths.cumsum(0).clamp(max=length)
    kv_lengths = ends[torch.searchsorted(ends, torch.arange(length), right=True)]
    return Pattern(
        "staircase", length, kv_lengths=kv_lengths[None], host_kv_lengths=tuple(kv_lengths.tolist())
    )


@pytest.mark.parametrize("leaf", [1, 7, 256])
@pytest.mark.parametrize("pattern", [block_pattern(600, 40), *map(uneven, range(4))])
def test_the_parts_cover_each_pair_of_the_mask_once(pattern, leaf):
    count = torch.zeros(pattern.length, pattern.length, dtype=int)
    for rows, keys, kv_lengths in staircase.split(pattern.host_kv_lengths, leaf):
        width = keys.stop - keys.start
        own = (
            torch.full((rows.stop - rows.start,), width)
            if kv_lengths is None
            else torch.tensor(kv_lengths)
        )
        assert own.min() > 0 and own.max() == width
        assert kv_lengths is None or len(kv_lengths) <= leaf
        count[rows, keys] += torch.arange(width) < own[:, None]
    assert torch.equal(count, pattern.dense("cpu")[0].int())


def test_the_computed_pairs_are_few_more_than_those_of_the_mask():
    """Check 4,096 positions in steps of 64: 51 % is allowed and 53 % computed."""
    pattern = block_pattern(4096, 64)
    parts = staircase.split(pattern.host_kv_lengths, staircase.LEAF)
    computed = sum((r.stop - r.start) * (k.stop - k.start) for r, k, _ in parts)
    assert computed / sum(pattern.host_kv_lengths) < 1.05
    assert len(parts) == 16 + 15  # leaves, and a rectangle for each halving


@pytest.mark.parametrize("pattern", [block_pattern(600, 40), uneven(0), Pattern("causal", 300)])
@pytest.mark.parametrize(("dtype", "tol"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
def test_it_equals_eager(pattern, dtype, tol):
    assert_as_eager("staircase", pattern, dtype, tol)


@pytest.mark.parametrize("backend", ["staircase", "matmul"])
def test_strides_and_empty_batches(backend):
    """Check queries whose last dimension is not contiguous; the kernel would read other values."""
    pattern = uneven(1)
    q, k, v = (x.detach() for x in qkv(pattern.length)[0])
    strided = q.transpose(-1, -2).contiguous().transpose(-1, -2)
    torch.testing.assert_close(
        attention(strided, k, v, pattern, backend), attention(q, k, v, pattern, "eager")
    )
    assert attention(q[:0], k[:0], v[:0], pattern, backend).shape == (0, *q.shape[1:])


def test_it_equals_eager_in_double():
    pattern = uneven(1)
    (q, k, v), whole = qkv(pattern.length, torch.float64)
    outs = [attention(q, k, v, pattern, backend) for backend in ("staircase", "eager")]
    grads = [torch.autograd.grad(o.square().sum(), whole, retain_graph=True)[0] for o in outs]
    torch.testing.assert_close(outs[0], outs[1], rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("backend", ["staircase", "matmul"])
def test_a_second_derivative_is_refused(backend):
    (q, k, v), whole = qkv(600)
    out = attention(q, k, v, block_pattern(600, 40), backend)
    with pytest.raises(RuntimeError, match=f"{backend} .*no second derivative.*'eager'"):
        torch.autograd.grad(out.sum(), whole, create_graph=True)


@pytest.mark.parametrize("backend", ["staircase", "matmul"])
@pytest.mark.parametrize("way", ["compiled", "checkpointed", "autocast"])
def test_it_runs(backend, way):
    pattern = block_pattern(600, 40)
    (q, k, v), whole = qkv(600)

    def call(q, k, v):
        return attention(q, k, v, pattern, backend)

    def gradient(call):
        out = call(q, k, v)
        return out, *torch.autograd.grad(out.float().square().sum(), whole)

    plain = gradient(call)
    if way == "compiled":
        torch._dynamo.reset()
        other = gradient(torch.compile(call, fullgraph=True, backend="aot_eager"))
    elif way == "checkpointed":
        other = gradient(lambda *x: checkpoint(call, *x, use_reentrant=False))
    else:
        with torch.autocast("cpu", torch.bfloat16):
            other = gradient(call)
        assert other[0].dtype == torch.bfloat16
    for ours, expected in zip(other, plain, strict=True):
        error = (ours.float() - expected).abs().max() / expected.abs().max()
        assert error <= (3e-2 if way == "autocast" else 1e-6)


@pytest.mark.parametrize("images", [1, 2, 3])
def test_matmul_in_chunks(images, monkeypatch):
    """Check different masks for three images, with chunks of one, two and three images."""
    kv_lengths = torch.stack([torch.arange(20).clamp(min=p) + 1 for p in (0, 4, 11)]).clamp(max=20)
    pattern = Pattern("staircase", 20, kv_lengths=kv_lengths)
    monkeypatch.setattr(matmul, "CHUNK_BYTES", images * 4 * 2 * 20 * 20)
    g = torch.Generator().manual_seed(0)
    whole = torch.randn(3, 20, 3, 2, 8, generator=g).requires_grad_()
    outs = [attention(*whole.unbind(2), pattern, backend) for backend in ("matmul", "eager")]
    grads = [torch.autograd.grad(o.square().sum(), whole, retain_graph=True)[0] for o in outs]
    torch.testing.assert_close(*outs)
    torch.testing.assert_close(*grads)
