"""Compare the back ends with the dense reference, and ask xformers about the inputs of training."""

from dataclasses import replace

import pytest
import torch
from helpers.attention_calls import assert_as_eager, block_pattern, qkv, run
from torch.nn.attention import flex_attention

from xtra_toolkit.attention import BACKENDS, Pattern, attention, choose, flex, processor, staircase
from xtra_toolkit.attention import xformers as xf
from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.masks import (
    BlockCausal,
    Mask,
    MaskFactory,
    PrefixCausal,
    RandomShown,
    TokenCausal,
)
from xtra_toolkit.objective.compiler import certify_objective
from xtra_toolkit.targets import MaskedPatches, NextBlock, NextToken

GRID = PatchGrid(8, 8, (8, 8))


class Window(MaskFactory):
    """A mask that is no ordered partition."""

    random = False

    def __call__(self, grid, batch=1, generator=None):
        raster = torch.arange(grid.tokens)
        return Mask(raster, raster, attend=lambda q, k: (k <= q) & (k > q - 5))


PAIRS = {
    "token": (TokenCausal(), NextToken()),
    "block": (BlockCausal(4), NextBlock()),
    "prefix": (PrefixCausal(), NextToken()),
    "shown": (RandomShown(), MaskedPatches()),
    "window": (Window(), NextToken()),
}


def patterns(name):
    """Return the encoder and decoder patterns of a pair, for two images."""
    plan = certify_objective(*PAIRS[name], GRID, (2, 2))(2, torch.device("cpu"), torch.Generator())
    return plan.encoder, plan.decoder


@pytest.mark.parametrize("backend", ["sdpa", "matmul", "staircase"])
@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize(("dtype", "tol"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
def test_back_ends_equal_eager(backend, name, dtype, tol):
    served = 0
    for pattern in patterns(name):
        if BACKENDS[backend].unsupported_reason(qkv(pattern.length)[0][0], pattern) is None:
            assert_as_eager(backend, pattern, dtype, tol)
            served += 1
    assert served or (backend, name) in [("staircase", "prefix"), ("staircase", "window")]


def test_eager_is_softmax_over_what_is_allowed():
    """Compare with a plain transcription that loops over the queries."""
    pattern, _ = patterns("block")
    (q, k, v), _ = qkv(pattern.length)
    out, dense = attention(q, k, v, pattern, "eager"), pattern.dense("cpu")[0]
    for row in (0, 15, 16, 47):
        keys = dense[row].nonzero()[:, 0]
        scores = (q[0, row, 1] * k[0, keys, 1]).sum(-1) / 16**0.5
        expected = (scores.softmax(0)[:, None] * v[0, keys, 1]).sum(0)
        torch.testing.assert_close(out[0, row, 1], expected)


@pytest.mark.parametrize(("name", "kinds"), [("token", "causal"), ("shown", "full")])
def test_structured_kinds_are_recognised(name, kinds):
    assert {p.kind for p in patterns(name)} == {kinds}


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_xformers_biases_are_the_mask(name, dtype):
    for pattern in patterns(name):
        shape = (2, pattern.length, 3, 16)
        bias = xf.attn_bias(pattern, shape, dtype, torch.device("cpu"))
        if bias is None:
            assert pattern.dense("cpu").all()
            continue
        n = pattern.length
        if not isinstance(bias, torch.Tensor):
            bias = bias.materialize((2, 3, n, n), dtype=dtype)
        else:
            assert all(s % 8 == 0 for s in bias.stride()[:-1])  # the kernels' rule
            assert bias.stride(1) == 0  # expanded over the heads, not copied
            again = xf.attn_bias(pattern, shape, dtype, torch.device("cpu"))
            assert again.data_ptr() == bias.data_ptr()  # made once a plan
        allowed = pattern.dense("cpu")[:, None].expand(2, 3, n, n)
        assert torch.equal(bias == 0, allowed) and (bias[~allowed] == -torch.inf).all()


TRAINED = [  # (mask, target, image, patch, heads and head widths of encoder and decoder)
    (BlockCausal(4), NextBlock(), 256, 16, [(12, 64), (6, 128)]),
    (BlockCausal(4), NextBlock(), 224, 14, [(16, 80), (8, 80)]),
    (TokenCausal(), NextToken(), 256, 16, [(12, 64), (6, 128)]),
    (PrefixCausal(), NextToken(), 224, 14, [(16, 80)]),
    (RandomShown(), MaskedPatches(), 224, 16, [(12, 64), (16, 32)]),
]


@pytest.mark.parametrize("case", TRAINED, ids=lambda c: type(c[0]).__name__ + str(c[2]))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_xformers_objects_only_to_the_machine(case, dtype):
    """Check the inputs of B/16 at 256 px and H/14 at 224 px, forward and backward."""
    mask, target, image, patch, shapes = case
    grid = PatchGrid.of(image, patch)
    plan = certify_objective(mask, target, grid, (1, 1))(2, torch.device("cpu"), torch.Generator())
    machine = ("device=cpu", "bf16 is only supported on A100+")
    for pattern in (plan.encoder, plan.decoder):
        for heads, dim in shapes:
            q = torch.empty(2, pattern.length, 3, heads, dim, dtype=dtype).unbind(2)[0]
            bias = xf.attn_bias(pattern, q.shape, dtype, q.device)
            for way, ops in xf.reasons(q, bias).items():
                best = min(
                    ([r for r in why if not r.startswith(machine)] for why in ops.values()), key=len
                )
                assert best == [], (way, ops)


def test_a_back_end_that_cannot_serve_is_refused_with_its_reason():
    pattern = Pattern("causal", 8)
    (q, k, v), _ = qkv(8)
    with pytest.raises(ValueError, match=r"'xformers' cannot serve: .*device=cpu.*eager, sdpa"):
        attention(q, k, v, pattern, "xformers")
    with pytest.raises(ValueError, match="valid: auto, eager, sdpa, xformers"):
        attention(q, k, v, pattern, "flash")
    window, prefix = patterns("window")[0], patterns("prefix")[0]
    with pytest.raises(ValueError, match=r"'staircase' cannot serve: .*no ordered partition"):
        attention(*qkv(window.length)[0], window, "staircase")
    with pytest.raises(ValueError, match=r"'flex' cannot serve: .*no backward pass on a CPU"):
        attention(q, k, v, pattern, "flex")
    with pytest.raises(ValueError, match=r"'staircase' cannot serve: .*differs between images"):
        attention(*qkv(prefix.length)[0], prefix, "staircase")


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("backend", ["eager", "sdpa", "matmul"])
def test_some_rows_of_a_pattern_are_those_rows(name, backend):
    _, pattern = patterns(name)
    rows = torch.stack([torch.arange(3, 20), torch.arange(8, 25)])
    (q, k, v), _ = qkv(pattern.length)
    index = rows[..., None, None].expand(-1, -1, *q.shape[2:])
    some = attention(q.gather(1, index), k, v, pattern.rows(rows), backend)
    torch.testing.assert_close(some, attention(q, k, v, pattern, "eager").gather(1, index))


@pytest.mark.parametrize("name", PAIRS)
def test_flex_equals_eager_forward(name, monkeypatch):
    """Check the block masks with FlexAttention's own dense evaluation, which compiles nothing."""
    monkeypatch.setattr(flex_attention, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    monkeypatch.setattr(flex, "_compiled", lambda: flex_attention.flex_attention)
    for pattern in patterns(name):
        (q, k, v), _ = qkv(pattern.length)
        rows = torch.stack([torch.arange(3, 12), torch.arange(5, 14)])
        some = q.gather(1, rows[..., None, None].expand(-1, -1, *q.shape[2:]))
        for queries, part in ((q, pattern), (some, pattern.rows(rows))):
            with torch.no_grad():
                inputs = [x.detach() for x in (queries, k, v)]
                out, expected = (attention(*inputs, part, b) for b in ("flex", "eager"))
            assert (out - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_flex_compiled_equals_eager_forward(dtype):
    pattern = block_pattern(256, 16)
    (q, k, v), _ = qkv(256, dtype)
    with torch.no_grad():
        q, k, v = (x.detach() for x in (q, k, v))
        out = attention(q, k, v, pattern, "flex").float()
        expected = attention(q.float(), k.float(), v.float(), pattern, "eager")
    tolerance = 1e-5 if dtype == torch.float32 else 3e-2
    assert (out - expected).abs().max() <= tolerance * expected.abs().max()


def test_flex_skips_the_blocks_that_nothing_attends_to():
    mask = flex.block_mask(block_pattern(1024, 256), torch.device("cpu"))
    assert mask.sparsity() == pytest.approx(100 * 6 / 16)  # 6 of 16 tiles of 256×256 are empty


class LastBlockOnly(BlockCausal):
    """Blocks of which all but the last are context, so that one block of outputs is read."""

    def __call__(self, grid, batch=1, generator=None):
        mask = super().__call__(grid, batch, generator)
        return replace(mask, context=mask.unit < 3)


def test_the_host_knows_the_rows_that_the_last_layer_computes():
    objective = certify_objective(LastBlockOnly(4), NextBlock(), GRID, (2, 2))
    plan = objective(2, torch.device("cpu"))
    rows = plan.decoder.rows(plan.output_positions)
    assert len(rows.host_kv_lengths) < plan.num_computed
    assert list(rows.host_kv_lengths) == rows.kv_lengths[0].tolist()
    assert staircase.unsupported_reason(torch.empty(2, rows.queries, 3, 16), rows) is None


@pytest.mark.parametrize("half", ["matmul", "sdpa"])
def test_auto_takes_what_was_measured(half, monkeypatch):
    monkeypatch.setattr(processor, "short_bf16", lambda q: half)

    def taken(length, dtype, grad=True):
        pattern = block_pattern(length, 64)
        return choose(torch.empty(2, length, 2, 64, dtype=dtype, requires_grad=grad), pattern)

    lengths = 256, 384, 1024, 2048
    assert [taken(n, torch.bfloat16) for n in lengths] == [half, half, "sdpa", "staircase"]
    assert [taken(n, torch.float32) for n in lengths] == ["sdpa"] * 2 + ["staircase"] * 2
    assert taken(256, torch.bfloat16, grad=False) == "sdpa"  # its forward alone is slower
    assert choose(torch.empty(2, 4096, 2, 64), Pattern("full", 4096)) == "sdpa"


@pytest.mark.gpu
@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("backend", [b for b in BACKENDS if b != "eager"])
@pytest.mark.parametrize(("dtype", "tol"), [(torch.float32, 1e-4), (torch.bfloat16, 3e-2)])
def test_back_ends_on_cuda_equal_eager(name, backend, dtype, tol):
    for pattern in patterns(name):
        q = qkv(pattern.length, dtype, device="cuda")[0][0]
        if reason := BACKENDS[backend].unsupported_reason(q, pattern.to("cuda")):
            pytest.skip(reason)
        for ours, reference in zip(
            run(backend, pattern, dtype, "cuda"), run("eager", pattern, torch.float32), strict=True
        ):
            assert (ours - reference).abs().max() <= tol * reference.abs().max()
