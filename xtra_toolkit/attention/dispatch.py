"""Compute attention under any mask by one call: ``attention(q, k, v, pattern)``.

Each back end has a file: ``eager`` (the dense reference), ``sdpa``, ``xformers`` (CUDA), ``matmul``
(short sequences on CPUs), ``staircase`` (long sequences) and ``flex`` (by name only). ``auto``
chooses the one that was measured fastest. If a back end that is named cannot serve the inputs, an
error says why; it is never replaced by another.
"""

import logging
from collections.abc import Callable
from functools import cache, partial

import torch
from mmengine.logging import print_log
from torch import Tensor

from xtra_toolkit.attention import eager, flex, matmul, processor, sdpa, staircase, xformers
from xtra_toolkit.attention.pattern import Pattern

BACKENDS = {
    "eager": eager,
    "sdpa": sdpa,
    "xformers": xformers,
    "matmul": matmul,
    "staircase": staircase,
    "flex": flex,
}

SHORT = 384  # most tokens for matmul in bfloat16: its weights take much memory beyond that
LONG = 1024  # fewest tokens at which the staircase back end is faster; twice as many in bfloat16

# What serves a mask that xformers knows only as a dense bias, on CUDA up to LONG tokens: "xformers"
# or "sdpa". Not measured yet: `make bench-gpu` measures it first and prints this line. Before
# compute capability 9.0 both call the memory-efficient kernel of torch, so little should depend on
# it; on 9.0 SDPA takes cuDNN in bfloat16 (docs/speed.md). Skipping tiles of 128 positions would
# save at most a quarter at 256 tokens.
DENSE_ON_CUDA = "xformers"

__all__ = ["BACKENDS", "Pattern", "attention", "choose", "get_attention"]


def attention(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, backend: str = "auto") -> Tensor:
    """Compute scaled dot-product attention under a pattern.

    Args:
        q: (B, Q, heads, dim), as in xformers. Q is N unless the pattern has fewer ``queries``.
        k, v: (B, N, heads, dim).
        pattern: The attention pattern of these positions.
        backend: ``'auto'`` or a key of ``BACKENDS``.

    Returns:
        (B, Q, heads, dim).

    Raises:
        ValueError: The back end is unknown, or cannot serve these inputs.
    """
    kind = q.device.type
    if kind != "meta" and torch.is_autocast_enabled(kind):  # as SDPA does
        q, k, v = (x.to(torch.get_autocast_dtype(kind)) for x in (q, k, v))
    if backend == "auto":
        backend = choose(q, pattern)
    elif reason := unsupported_reason(backend, q, pattern):
        raise ValueError(
            f"attention back end {backend!r} cannot serve: {reason}; use 'auto' or one of "
            f"{', '.join(b for b in BACKENDS if not unsupported_reason(b, q, pattern))}"
        )
    return BACKENDS[backend].attention(q, k, v, pattern)


def unsupported_reason(backend: str, q: Tensor, pattern: Pattern) -> str | None:
    """Return why a back end cannot serve q (B, N, heads, dim) under a pattern; None if it can."""
    if pattern.score_bias is not None and backend not in ("eager", "sdpa"):
        return "relative positions add to the scores, which eager and sdpa support"
    return _module(backend).unsupported_reason(q, pattern)


def choose(q: Tensor, pattern: Pattern) -> str:
    """Return the back end that ``auto`` uses for q (B, N, heads, dim) under a pattern."""
    if pattern.score_bias is not None:
        return "sdpa"
    if q.device.type == "cpu":
        return _choose_on_cpu(q, pattern)
    if q.device.type != "cuda":
        return "sdpa"
    reason = xformers.unsupported_reason(q, pattern)
    if reason is None:
        dense = pattern.kind in ("staircase", "dense") and pattern.length <= LONG
        return DENSE_ON_CUDA if dense else "xformers"
    # above compute capability 9.0 xformers cannot train with a dense bias; its flash ops can train
    backend = "staircase" if _is_long_staircase(q, pattern, LONG) else "sdpa"
    _warn_once(f"attention runs on {backend}: {reason}")
    return backend


def _choose_on_cpu(q: Tensor, pattern: Pattern) -> str:
    """Choose by what tests/bench/bench_attention.py measured and by the processor's features."""
    half = q.dtype == torch.bfloat16
    # only in the backward pass is flash attention slower, so matmul is not used without gradients
    if half and q.requires_grad and pattern.length <= SHORT:
        return processor.short_bf16(q)
    return "staircase" if _is_long_staircase(q, pattern, 2 * LONG if half else LONG) else "sdpa"


def _is_long_staircase(q: Tensor, pattern: Pattern, length: int) -> bool:
    long = pattern.kind == "staircase" and pattern.length >= length
    return long and not staircase.unsupported_reason(q, pattern)


def get_attention(backend: str) -> Callable[[Tensor, Tensor, Tensor, Pattern], Tensor]:
    """Return :func:`attention` with a fixed back end, as layers take it.

    Raises:
        ValueError: The back end is unknown.
    """
    if backend != "auto":
        _module(backend)
    return partial(attention, backend=backend)


def _module(backend: str):  # noqa: ANN202
    if backend not in BACKENDS:
        raise ValueError(
            f"attention back end {backend!r} was given; valid: auto, {', '.join(BACKENDS)}"
        )
    return BACKENDS[backend]


@cache
def _warn_once(message: str) -> None:
    print_log(message, logger="current", level=logging.WARNING)
