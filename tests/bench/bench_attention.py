"""Attention alone, forward and backward: every back end against SDPA with the dense mask.

    .venv/bin/python tests/bench/bench_attention.py --dtype fp32 bf16 --plot attention.png

The baseline is `F.scaled_dot_product_attention` with a bool mask made beforehand, or `is_causal`,
as anybody would call it. All sides of a row are timed in turn, in one process; a ratio above 1 is
faster than the baseline. FlexAttention, compiled, is timed forward alone: it has no backward on a
CPU. The plot goes from 256 to 16,384 tokens in 16 steps, with the memory of a call at its peak.
"""

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from bench_step import fresh_high_water, high_water
from spread import cell, row
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from xtra_toolkit.attention import BACKENDS, Pattern, attention, choose

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Shape(NamedTuple):
    """Numbers of images, tokens and heads, width of a head, and tokens of a step (all: no mask)."""

    images: int
    tokens: int
    heads: int
    dim: int
    step: int

    def __str__(self) -> str:
        get_attention = {1: "causal", self.tokens: "no mask"}
        step = get_attention.get(self.step, f"step {self.step}")
        return f"{self.tokens} tokens, {step}, {self.images} × {self.heads} heads of {self.dim}"


SHAPES = [
    Shape(16, 50, 12, 64, 50),  # MAE-B's encoder
    Shape(16, 197, 16, 32, 197),  # and its decoder
    Shape(8, 240, 12, 64, 16),  # XTRA-B's encoder
    Shape(8, 240, 6, 128, 16),  # and its decoder
    Shape(8, 255, 12, 64, 1),  # AIM-B's encoder
    Shape(4, 256, 12, 64, 16),
    Shape(1, 1024, 12, 64, 64),
    Shape(1, 4096, 6, 64, 256),
    Shape(1, 4096, 6, 64, 64),
]
PLOTTED = [Shape(1, n, 6, 64, n // 16) for n in (256, 512, 1024, 2048, 4096, 8192, 16384)]


def pattern_of(shape: Shape) -> Pattern:
    if shape.step == shape.tokens:
        return Pattern("full", shape.tokens)
    if shape.step == 1:
        return Pattern("causal", shape.tokens)
    host_kv_lengths = tuple((i // shape.step + 1) * shape.step for i in range(shape.tokens))
    return Pattern(
        "staircase",
        shape.tokens,
        kv_lengths=torch.tensor([host_kv_lengths]),
        host_kv_lengths=host_kv_lengths,
    )


def dense_sdpa(pattern: Pattern, device: str) -> Callable[..., Tensor]:
    causal = pattern.kind == "causal"
    mask = pattern.dense(device)[:, None] if pattern.kind == "staircase" else None

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
        return out.transpose(1, 2)

    return call


def flex(shape: Shape, device: str) -> Callable[..., Tensor]:
    def compute_kv_lengths(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return k // shape.step <= q // shape.step

    n = shape.tokens
    mask = create_block_mask(compute_kv_lengths, None, None, n, n, device=device)
    compiled = torch.compile(flex_attention, fullgraph=True)

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.detach().transpose(1, 2) for x in (q, k, v))
        return compiled(q, k, v, block_mask=mask).transpose(1, 2)

    return call


class Side:
    """Run one kind of attention on qkv (B, N, 3, heads, dim), as a layer gives it."""

    def __init__(self, call: Callable[..., Tensor], shape: Shape, dtype: torch.dtype, device: str):
        g = torch.Generator().manual_seed(0)
        size = shape.images, shape.tokens, 3, shape.heads, shape.dim
        self.call, self.qkv = call, torch.randn(size, generator=g).to(device, dtype)
        self.qkv.requires_grad_()
        self.grad = torch.randn(size[:2] + size[3:], generator=g).to(device, dtype)

    def __call__(self, backward: bool = True) -> None:
        if not backward:
            with torch.no_grad():
                self.call(*self.qkv.unbind(2))
            return
        self.call(*self.qkv.unbind(2)).backward(self.grad)
        self.qkv.grad = None

    def seconds(self, backward: bool = True) -> float:
        self.synchronize()
        start, calls = time.perf_counter(), 0
        while calls == 0 or time.perf_counter() - start < 0.05:
            self(backward)
            calls += 1
        self.synchronize()
        return (time.perf_counter() - start) / calls

    def synchronize(self) -> None:
        if self.qkv.is_cuda:
            torch.cuda.synchronize()

    def peak(self) -> int:
        """Return the bytes that a call allocates in addition to what is allocated already."""
        if self.qkv.is_cuda:
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            self()
            return torch.cuda.max_memory_allocated() - before
        gc.collect()
        before = fresh_high_water()
        self()
        return high_water() - before


def sides(
    shape: Shape, dtype: torch.dtype, device: str, only: set[str], backward: bool = True
) -> dict[str, Side]:
    """Return the kinds of attention by name; the baseline is 'dense SDPA'."""
    pattern, made = pattern_of(shape).to(device), {}
    q = torch.empty(shape.images, shape.tokens, shape.heads, shape.dim, device=device, dtype=dtype)
    q.requires_grad_()
    made["dense SDPA"] = Side(dense_sdpa(pattern, device), shape, dtype, device)
    for name in BACKENDS:
        if name in only and not BACKENDS[name].unsupported_reason(q, pattern):

            def call(q: Tensor, k: Tensor, v: Tensor, name: str = name) -> Tensor:
                return attention(q, k, v, pattern, name)

            made[name] = Side(call, shape, dtype, device)
    chosen = choose(q if backward else q.detach(), pattern)
    if chosen in made:
        made["auto"] = made[chosen]
    return made


def compare(sides: dict[str, Side], rounds: int, backward: bool = True) -> dict[str, list[float]]:
    """Return the seconds of each side in each round; the sides take turns."""
    for side in sides.values():
        side(backward)
    timed = {name: side for name, side in sides.items() if name != "auto"}
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    for turn in range(rounds):
        order = list(timed) if turn % 2 == 0 else list(timed)[::-1]
        for name in order:
            seconds[name].append(timed[name].seconds(backward))
    if "auto" in sides:
        seconds["auto"] = next(seconds[n] for n, side in timed.items() if side is sides["auto"])
    return seconds


def ratios(seconds: dict[str, list[float]], name: str) -> list[float]:
    return [b / s for b, s in zip(seconds["dense SDPA"], seconds[name], strict=True)]


def table(args: argparse.Namespace) -> list[dict]:
    names, rows = ["sdpa", "xformers", "matmul", "staircase", "auto"], []
    print(f"| shape | dtype | dense SDPA, ms | {' | '.join(names)} | FlexAttention, forward |")
    print(f"|{'---|' * (len(names) + 4)}")
    for dtype in args.dtype:
        for shape in SHAPES:
            made = sides(shape, DTYPES[dtype], args.device, set(names))
            seconds = compare(made, args.rounds)
            cells = [f"{1e3 * statistics.median(seconds['dense SDPA']):.1f}"]
            for name in names:
                cells.append("" if name not in seconds else cell(ratios(seconds, name)))
                if name in seconds:
                    rows.append(row(f"{name}, {shape}, {dtype}", ratios(seconds, name), "ratio"))
            cells.append(_flex(shape, dtype, args, rows))
            print(f"| {shape} | {dtype} | {' | '.join(cells)} |", flush=True)
    return rows


def _flex(shape: Shape, dtype: str, args: argparse.Namespace, rows: list[dict]) -> str:
    """Return the cell of FlexAttention's forward pass against dense SDPA and the staircase."""
    if shape.tokens not in (256, 1024, 4096) or not args.flex:
        return ""
    made = sides(shape, DTYPES[dtype], args.device, {"sdpa", "staircase"}, backward=False)
    made["FlexAttention"] = Side(flex(shape, args.device), shape, DTYPES[dtype], args.device)
    seconds = compare(made, args.rounds, backward=False)
    for name in ("FlexAttention", "auto"):
        if name in seconds:
            rows.append(row(f"{name}, forward, {shape}, {dtype}", ratios(seconds, name), "ratio"))
    ours = f"; auto {cell(ratios(seconds, 'auto'))}" if "auto" in seconds else ""
    return cell(ratios(seconds, "FlexAttention")) + ours


def plot(args: argparse.Namespace) -> None:
    """Plot milliseconds and peak memory by tokens, of dense SDPA, staircase and FlexAttention."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    labels = ("ms, forward", "ms, forward and backward", "peak memory of both, MiB")
    figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    for dtype in args.dtype:
        curves: dict[tuple[str, int], list[tuple[int, float]]] = {}
        for shape in PLOTTED:
            for name, panel, value in _points(shape, dtype, args):
                curves.setdefault((name, panel), []).append((shape.tokens, value))
        for (name, panel), points in curves.items():
            style = dict(linestyle=LINES[name], color=f"C{args.dtype.index(dtype)}", marker=".")
            axes[panel].plot(*zip(*points, strict=True), **style, label=f"{name}, {dtype}")
            print(f"{name}, {dtype}, {labels[panel]}: {[(n, round(y, 2)) for n, y in points]}")
    for axis, label in zip(axes, labels, strict=True):
        axis.set(xscale="log", yscale="log", xlabel="tokens, in 16 steps", ylabel=label)
        axis.set_xticks([s.tokens for s in PLOTTED], [str(s.tokens) for s in PLOTTED])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].legend(frameon=False)
    figure.savefig(args.plot, dpi=100)


LINES = {"dense SDPA": "--", "staircase": "-", "FlexAttention": ":"}


def _points(shape: Shape, dtype: str, args: argparse.Namespace) -> list[tuple[str, int, float]]:
    """Yield (side, panel, value) for one length."""
    made = sides(shape, DTYPES[dtype], args.device, {"staircase"})
    made.pop("auto", None)
    rounds = 5 if shape.tokens <= 2048 else 3
    both, points = compare(made, rounds), []
    points += [(name, 2, side.peak() / 2**20) for name, side in made.items()]
    if args.flex:
        made["FlexAttention"] = Side(flex(shape, args.device), shape, DTYPES[dtype], args.device)
    forward = compare(made, rounds, backward=False)
    for panel, seconds in enumerate((forward, both)):
        points += [(name, panel, 1e3 * statistics.median(s)) for name, s in seconds.items()]
    return points


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="at least 5 (default)")
    parser.add_argument("--dtype", nargs="+", default=["fp32"], choices=list(DTYPES))
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--no-flex", dest="flex", action="store_false", help="compiles nothing")
    parser.add_argument("--plot", type=Path, help="draw time and memory up to 16,384 tokens, alone")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.rounds < 5:
        parser.error(f"--rounds must be at least 5, got {args.rounds}")
    return args


def main() -> None:
    args = parse()
    if args.plot:
        return plot(args)
    rows = table(args)
    if args.json:
        args.json.write_text(json.dumps(dict(name="attention", rows=rows), indent=1))


if __name__ == "__main__":
    main()
