"""Which back end is fast for short bfloat16 sequences on this CPU.

With a unit for bfloat16 matrices (AMX) or instructions for them (AVX-512 bf16), ``matmul`` trains
up to five times as fast as SDPA; without them the products may be emulated and slow. Where torch
reports neither, both back ends are timed once a process, on a small input.
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

SHAPE = (1, 197, 3, 4, 64)  # of qkv as a layer makes it: images, tokens, 3, heads, width of a head
MARGIN = 1.2  # matmul must be so many times as fast, since it takes more memory
ROUNDS = 5


def short_bf16(q: Tensor) -> str:
    """Return ``'matmul'`` or ``'sdpa'``, whichever trains faster on short sequences in bfloat16.

    A compiled or a fake call measures nothing: where the processor is unknown it takes ``'sdpa'``.
    """
    if feature():
        return "matmul"
    if torch.compiler.is_compiling() or isinstance(q, FakeTensor):
        return "sdpa"
    return measured()[0]


@torch.compiler.assume_constant_result
def feature() -> str | None:
    """Return what the processor has for bfloat16 matrices; None if torch knows of nothing."""
    if torch.cpu._is_amx_tile_supported():
        return "AMX"
    return "AVX-512 bf16" if torch.cpu._is_avx512_bf16_supported() else None


@cache
def measured() -> tuple[str, float]:
    """Time ``matmul`` against ``sdpa`` and return the faster one, with how fast ``matmul`` was.

    The figure is kept for the process. All processes of a distributed run use the figure that the
    first of them found, so that they compute alike.
    """
    with ThreadPoolExecutor(1) as thread:  # without the caller's autocast, hooks and tracing
        ratio = _agreed(thread.submit(_measure).result())
    backend = "matmul" if ratio >= MARGIN else "sdpa"
    print_log(
        f"attention on short sequences in bfloat16 runs on {backend}: matmul was measured "
        f"{ratio:.2f} times as fast as sdpa on this CPU; name a back end in the config "
        f"(attention={backend!r}) to compute alike on every machine",
        logger="current",
    )
    return backend, ratio


def reason() -> str:
    """Return a clause that says why :func:`short_bf16` chooses what it chooses."""
    if feature():
        return f"matmul, since the processor has {feature()}"
    backend, ratio = measured()
    return f"{backend}, since matmul was measured {ratio:.2f} times as fast as sdpa"


def _measure() -> float:
    """Return the seconds of ``sdpa`` over those of ``matmul``, forward and backward."""
    seconds = {sdpa: [], matmul: []}
    for _ in range(ROUNDS):
        for backend, taken in seconds.items():
            taken.append(_seconds(backend))
    return min(seconds[sdpa]) / min(seconds[matmul])  # other programs only ever add


def _seconds(backend) -> float:  # noqa: ANN001
    """Time one call, forward and backward; no random numbers are drawn."""
    qkv = torch.ones(SHAPE, dtype=torch.bfloat16, device="cpu", requires_grad=True)
    start = time.perf_counter()
    out = backend.attention(*qkv.unbind(2), Pattern("full", SHAPE[1]))
    out.backward(torch.ones_like(out))
    return time.perf_counter() - start


def _agreed(own: float) -> float:
    """Return the figure that the first process of a distributed run found; alone, ``own``."""
    if not (dist.is_available() and dist.is_initialized()):
        return own
    store = dist.distributed_c10d._get_default_store()  # no collective: ranks may come at any time
    return float(store.compare_set("xtra_toolkit/matmul_over_sdpa", "", repr(own)))
