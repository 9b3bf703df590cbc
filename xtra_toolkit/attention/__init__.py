"""One attention call for every mask: ``attention(q, k, v, pattern)``.

Back ends, one file each: ``eager`` (the dense reference), ``sdpa``, ``xformers``. ``auto`` takes
xformers on CUDA where it serves, else SDPA. A back end asked for by name that cannot serve is
refused with its reason, never replaced.
"""

import logging
from collections.abc import Callable
from functools import cache, partial

from mmengine.logging import print_log
from torch import Tensor

from xtra_toolkit.attention import eager, sdpa, xformers
from xtra_toolkit.attention.pattern import Pattern

BACKENDS = {"eager": eager, "sdpa": sdpa, "xformers": xformers}

__all__ = ["BACKENDS", "Pattern", "attention", "choose", "named"]


def attention(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, backend: str = "auto") -> Tensor:
    """Scaled dot-product attention under a pattern.

    Args:
        q, k, v: (B, N, heads, dim), as in xformers.
        pattern: of the same N positions; True means *may attend*.
        backend: ``'auto'``, ``'eager'``, ``'sdpa'`` or ``'xformers'``.

    Returns:
        (B, N, heads, dim).

    Raises:
        ValueError: an unknown back end, or one that cannot serve these inputs.
    """
    if backend == "auto":
        backend = choose(q, pattern)
    elif reason := _module(backend).refusal(q, pattern):
        raise ValueError(
            f"attention back end {backend!r} cannot serve: {reason}; take 'auto', or one of "
            f"{', '.join(b for b in BACKENDS if not BACKENDS[b].refusal(q, pattern))}"
        )
    return BACKENDS[backend].attention(q, k, v, pattern)


def choose(q: Tensor, pattern: Pattern) -> str:
    """The back end that ``auto`` takes for q (B, N, heads, dim) under a pattern."""
    if q.device.type != "cuda":
        return "sdpa"
    reason = xformers.refusal(q, pattern)
    if reason:
        _say_once(f"attention runs on SDPA: {reason}")
    return "sdpa" if reason else "xformers"


def named(backend: str) -> Callable[[Tensor, Tensor, Tensor, Pattern], Tensor]:
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
