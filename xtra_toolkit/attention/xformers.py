"""xformers' memory_efficient_attention: the default on CUDA.

Structured biases where xformers has them, otherwise one dense bias a plan, expanded over heads, and
over the batch where images share it.
"""

import ctypes
import importlib.util
from functools import cache
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from xtra_toolkit.attention.pattern import Pattern

_refusals: dict[tuple, str | None] = {}


@cache
def load() -> ModuleType | str:
    """xformers.ops, or why it cannot be had."""
    _load_cuda_12()
    try:
        import xformers.ops
    except Exception as error:  # a broken binary raises whatever it likes
        return f"xformers cannot be imported ({type(error).__name__}: {error})"
    return xformers.ops


def unsupported_reason(q: Tensor, pattern: Pattern) -> str | None:
    """Why this back end cannot serve these inputs, in xformers' own words; None where it can."""
    ops = load()
    if isinstance(ops, str):
        return ops
    size = q.shape[1:], pattern.length
    key = (q.device, q.dtype, pattern.kind, pattern.shared, size, q.requires_grad)
    if key not in _refusals:
        bias = attn_bias(pattern, q.shape, q.dtype, q.device)
        objections = reasons(q.detach(), bias, pattern.length if pattern.queries else None)
        for way in ("forward", "backward") if q.requires_grad else ("forward",):
            if all(objections[way].values()):
                text = "; ".join(f"{op}: {', '.join(why)}" for op, why in objections[way].items())
                _refusals[key] = f"no {way} op of xformers takes these inputs ({text})"
                break
        else:
            _refusals[key] = None
    return _refusals[key]


def attention(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern) -> Tensor:
    """(B, Q, heads, dim) in and out."""
    bias = attn_bias(pattern, q.shape, q.dtype, q.device)
    return load().memory_efficient_attention(q, k, v, attn_bias=bias)


def attn_bias(
    pattern: Pattern, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> object:
    """What xformers calls attn_bias, for q of ``shape`` (B, N, heads, dim)."""
    if pattern.kind == "full":
        return None
    if pattern.kind == "causal":
        return load().LowerTriangularMask()
    batch, q, heads, _ = shape
    return pattern.bias(dtype, device).expand(batch, heads, q, pattern.length)


def reasons(q: Tensor, bias: object, keys: int | None = None) -> dict[str, dict[str, list[str]]]:
    """What each op of xformers has to say against these inputs; asked of xformers itself.

    Args:
        q: (B, Q, heads, dim), without gradient.
        bias: of :func:`attn_bias`.
        keys: N, where it is not Q.

    Returns:
        ``{'forward': {op: [reason, …]}, 'backward': {…}}``; an empty list means that it serves.
    """
    fmha = load().fmha
    k = q if keys is None else q.new_empty(len(q), keys, *q.shape[2:])
    inputs = fmha.Inputs(q, k, k, bias)
    ops = (fmha.flash3, fmha.flash, fmha.cutlass)
    return {
        way: {op.NAME: op.not_supported_reasons(inputs) for op in (getattr(m, kind) for m in ops)}
        for way, kind in (("forward", "FwOp"), ("backward", "BwOp"))
    }


def _load_cuda_12() -> None:
    """xformers is built against CUDA 12; beside a CUDA 13 torch its library does not load alone."""
    spec = importlib.util.find_spec("nvidia")
    for root in (spec.submodule_search_locations or ()) if spec else ():
        for library in Path(root).glob("cuda_runtime/lib/libcudart.so.12"):
            ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
