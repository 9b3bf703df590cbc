"""Attend by xformers' memory_efficient_attention, the default on CUDA.

The structured biases of xformers are used for the patterns that have one. Other patterns use a
dense bias, computed once and expanded over the heads, and over the batch if images share it.
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
    """Return ``xformers.ops``, or the reason why it cannot be imported."""
    _load_cuda_12()
    try:
        import xformers.ops
    except Exception as error:  # a broken binary raises errors of many classes
        return f"xformers cannot be imported ({type(error).__name__}: {error})"
    return xformers.ops


def unsupported_reason(q: Tensor, pattern: Pattern) -> str | None:
    """Return why this back end cannot serve these inputs, in the words of xformers, or None."""
    ops = load()
    if isinstance(ops, str):
        return ops
    size = q.shape[1:], pattern.length
    key = (q.device, q.dtype, pattern.kind, pattern.shared, size, q.requires_grad)
    if key not in _refusals:
        bias = attn_bias(pattern, q.shape, q.dtype, q.device)
        by_pass = reasons(q.detach(), bias, pattern.length if pattern.queries else None)
        for name in ("forward", "backward") if q.requires_grad else ("forward",):
            if all(by_pass[name].values()):
                text = "; ".join(f"{op}: {', '.join(r)}" for op, r in by_pass[name].items())
                _refusals[key] = f"no {name} op of xformers takes these inputs ({text})"
                break
        else:
            _refusals[key] = None
    return _refusals[key]


def attention(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern) -> Tensor:
    """Compute attention; (B, Q, heads, dim) in and out."""
    bias = attn_bias(pattern, q.shape, q.dtype, q.device)
    return load().memory_efficient_attention(q, k, v, attn_bias=bias)


def attn_bias(
    pattern: Pattern, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> object:
    """Return the ``attn_bias`` argument of xformers for q of ``shape`` (B, N, heads, dim)."""
    if pattern.kind == "full":
        return None
    if pattern.kind == "causal":
        return load().LowerTriangularMask()
    batch, q, heads, _ = shape
    return pattern.bias(dtype, device).expand(batch, heads, q, pattern.length)


def reasons(q: Tensor, bias: object, keys: int | None = None) -> dict[str, dict[str, list[str]]]:
    """Ask xformers for the reasons why each of its ops does not support these inputs.

    Args:
        q: (B, Q, heads, dim), without gradient.
        bias: What :func:`attn_bias` returns.
        keys: N, if it is not Q.

    Returns:
        ``{'forward': {op: [reason, …]}, 'backward': {…}}``. An empty list means that the op
        supports the inputs.
    """
    fmha = load().fmha
    k = q if keys is None else q.new_empty(len(q), keys, *q.shape[2:])
    inputs = fmha.Inputs(q, k, k, bias)
    ops = (fmha.flash3, fmha.flash, fmha.cutlass)
    return {
        name: {op.NAME: op.not_supported_reasons(inputs) for op in (getattr(m, kind) for m in ops)}
        for name, kind in (("forward", "FwOp"), ("backward", "BwOp"))
    }


def _load_cuda_12() -> None:
    """Load the CUDA 12 runtime, against which xformers is built, also beside torch for CUDA 13."""
    spec = importlib.util.find_spec("nvidia")
    for root in (spec.submodule_search_locations or ()) if spec else ():
        for library in Path(root).glob("cuda_runtime/lib/libcudart.so.12"):
            ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
