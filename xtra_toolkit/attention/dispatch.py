"""One attention call for every mask: ``attention(q, k, v, pattern)``.

Back ends, one file each: ``eager`` (the dense reference), ``sdpa``, ``xformers`` (CUDA), ``matmul``
(short sequences on CPUs), ``staircase`` (long ones). ``auto`` takes what was measured fastest. A
back end asked for by name that cannot serve is refused with its reason, never replaced.
"""

import logging
from collections.abc import Callable
from functools import cache, partial

import torch
from mmengine.logging import print_log
from torch import Tensor

from xtra_toolkit.attention import eager, matmul, processor, sdpa, staircase, xformers
from xtra_toolkit.attention.pattern import Pattern

BACKENDS = {
    "eager": eager,
    "sdpa": sdpa,
    "xformers": xformers,
    "matmul": matmul,
    "staircase": staircase,
}

SHORT = 384  # tokens up to which matmul keeps its weights, in bfloat16: longer takes much memory
LONG = 1024  # from which on a staircase pays; twice that in bfloat16

__all__ = ["BACKENDS", "Pattern", "attention", "choose", "get_attention"]


def attention(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, backend: str = "auto") -> Tensor:
    """Scaled dot-product attention under a pattern.

    Args:
        q: (B, Q, heads, dim), as in xformers; Q is N unless the pattern is of fewer ``queries``.
        k, v: (B, N, heads, dim).
        pattern: of these positions; True means *may attend*.
        backend: ``'auto'`` or a key of ``BACKENDS``.

    Returns:
        (B, Q, heads, dim).

    Raises:
        ValueError: an unknown back end, or one that cannot serve these inputs.
    """
    kind = q.device.type
    if kind != "meta" and torch.is_autocast_enabled(kind):  # as SDPA would
        q, k, v = (x.to(torch.get_autocast_dtype(kind)) for x in (q, k, v))
    if backend == "auto":
        backend = choose(q, pattern)
    elif reason := _module(backend).unsupported_reason(q, pattern):
        raise ValueError(
            f"attention back end {backend!r} cannot serve: {reason}; take 'auto', or one of "
            f"{', '.join(b for b in BACKENDS if not BACKENDS[b].unsupported_reason(q, pattern))}"
        )
    return BACKENDS[backend].attention(q, k, v, pattern)


def choose(q: Tensor, pattern: Pattern) -> str:
    """The back end that ``auto`` takes for q (B, N, heads, dim) under a pattern."""
    if q.device.type == "cpu":
        return _choose_on_cpu(q, pattern)
    if q.device.type != "cuda":
        return "sdpa"
    reason = xformers.unsupported_reason(q, pattern)
    if reason is None:
        return "xformers"
    # above compute capability 9.0 xformers trains with no dense bias; its flash ops do
    host_kv_lengths = pattern.length >= LONG and pattern.kind == "staircase"
    other = (
        "staircase" if host_kv_lengths and not staircase.unsupported_reason(q, pattern) else "sdpa"
    )
    _say_once(f"attention runs on {other}: {reason}")
    return other


def _choose_on_cpu(q: Tensor, pattern: Pattern) -> str:
    """Choose by tests/bench/bench_attention.py, and by what this processor is good at."""
    half = q.dtype == torch.bfloat16
    # forward alone flash is faster; what it loses on is its backward
    if half and q.requires_grad and pattern.length <= SHORT:
        return processor.short_bf16(q)
    long = pattern.length >= (2 * LONG if half else LONG)
    host_kv_lengths = pattern.kind == "staircase" and not staircase.unsupported_reason(q, pattern)
    return "staircase" if long and host_kv_lengths else "sdpa"


def get_attention(backend: str) -> Callable[[Tensor, Tensor, Tensor, Pattern], Tensor]:
    """``attention`` with its back end fixed, to be handed to layers; ValueError where unknown."""
    if backend != "auto":
        _module(backend)
    return partial(attention, backend=backend)


def _module(backend: str):  # noqa: ANN202
    if backend not in BACKENDS:
        raise ValueError(
            f"attention back end {backend!r} was asked for; valid: auto, {', '.join(BACKENDS)}"
        )
    return BACKENDS[backend]


@cache
def _say_once(text: str) -> None:
    print_log(text, logger="current", level=logging.WARNING)
