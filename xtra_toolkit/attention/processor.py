"""Find out which back end is fast for short bfloat16 sequences on this CPU.

With AMX or AVX-512 bf16, ``matmul`` trains up to five times as fast as SDPA. Without them bfloat16
products may be emulated and slow. If torch reports neither, both back ends are timed on a small
input, once per process.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch
from mmengine.logging import print_log
from torch import Tensor
from torch import distributed as dist
from torch._subclasses import FakeTensor

from xtra_toolkit.attention import matmul, sdpa
from xtra_toolkit.attention.pattern import Pattern

SHAPE = (1, 197, 3, 4, 64)  # of qkv: images, tokens, 3, heads, width of a head
MARGIN = 1.2  # matmul is chosen if it is this many times as fast, since it takes more memory
ROUNDS = 5


def short_bf16(q: Tensor) -> str:
    """Return ``'matmul'`` or ``'sdpa'``, whichever trains faster on short sequences in bfloat16.

    If torch reports nothing about the processor, both are timed. A compiled call or a fake tensor
    cannot be timed, and gets ``'sdpa'`` then.
    """
    if feature():
        return "matmul"
    if torch.compiler.is_compiling() or isinstance(q, FakeTensor):
        return "sdpa"
    return measured()[0]


@torch.compiler.assume_constant_result
def feature() -> str | None:
    """Return the processor's feature for bfloat16 products; None if torch reports none."""
    if torch.cpu._is_amx_tile_supported():
        return "AMX"
    return "AVX-512 bf16" if torch.cpu._is_avx512_bf16_supported() else None


@cache
def measured() -> tuple[str, float]:
    """Time ``matmul`` against ``sdpa``; return the one to use and the speed-up of ``matmul``.

    The result is kept for the process. All processes of a distributed run use the figure of the
    first that measured, so that they compute alike.
    """
    with ThreadPoolExecutor(1) as thread:  # without the caller's autocast, hooks and tracing
        ratio = _share(thread.submit(_measure).result())
    backend = "matmul" if ratio >= MARGIN else "sdpa"
    print_log(
        f"attention on short sequences in bfloat16 runs on {backend}: matmul was measured "
        f"{ratio:.2f} times as fast as sdpa on this CPU; name a back end in the config "
        f"(attention={backend!r}) to compute alike on every machine",
        logger="current",
    )
    return backend, ratio


def reason() -> str:
    """Return the choice of :func:`short_bf16` with its reason, as a clause."""
    if feature():
        return f"matmul, since the processor has {feature()}"
    backend, ratio = measured()
    return f"{backend}, since matmul was measured {ratio:.2f} times as fast as sdpa"


def _measure() -> float:
    """Return the time of ``sdpa`` divided by that of ``matmul``, forward and backward."""
    seconds = {sdpa: [], matmul: []}
    for _ in range(ROUNDS):
        for backend, measured_seconds in seconds.items():
            measured_seconds.append(_time(backend))
    return min(seconds[sdpa]) / min(seconds[matmul])  # other programs can only add to a time


def _time(backend) -> float:  # noqa: ANN001
    """Return the seconds of one call, forward and backward. No random numbers are drawn."""
    qkv = torch.ones(SHAPE, dtype=torch.bfloat16, device="cpu", requires_grad=True)
    start = time.perf_counter()
    out = backend.attention(*qkv.unbind(2), Pattern("full", SHAPE[1]))
    out.backward(torch.ones_like(out))
    return time.perf_counter() - start


def _share(value: float) -> float:
    """Return the value of the first process that called this; outside a distributed run, ``value``.

    It uses the store instead of a collective, since processes may call it at different times.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return value
    store = dist.distributed_c10d._get_default_store()
    return float(store.compare_set("xtra_toolkit/matmul_over_sdpa", "", repr(value)))
