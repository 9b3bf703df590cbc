"""Inputs of attention, and the comparison of a back end with the dense reference."""

import torch

from xtra_toolkit.attention import Pattern, attention


def block_pattern(length, step):
    """Return a staircase whose steps have equal width."""
    host_kv_lengths = tuple((i // step + 1) * step for i in range(length))
    return Pattern(
        "staircase",
        length,
        kv_lengths=torch.tensor([host_kv_lengths]),
        host_kv_lengths=host_kv_lengths,
    )


def qkv(length, dtype=torch.float32, heads=3, dim=16, device="cpu"):
    """Return q, k and v as slices of one tensor, as in the layers, and that tensor."""
    g = torch.Generator().manual_seed(0)
    whole = torch.randn(2, length, 3, heads, dim, generator=g).to(device, dtype).requires_grad_()
    return whole.unbind(2), whole


def run(backend, pattern, dtype, device="cpu"):
    """Return the output and the input gradient of one call."""
    parts, whole = qkv(pattern.length, dtype, device=device)
    out = attention(*parts, pattern.to(device), backend)
    (grad,) = torch.autograd.grad((out.float() ** 2).sum(), whole)
    return out.detach().float().cpu(), grad.float().cpu()


def assert_as_eager(backend, pattern, dtype, tol):
    for ours, reference in zip(
        run(backend, pattern, dtype), run("eager", pattern, torch.float32), strict=True
    ):
        assert (ours - reference).abs().max() <= tol * reference.abs().max()
