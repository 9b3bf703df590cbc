"""Masks that xformers knows only as a dense bias: xformers or SDPA on CUDA, forward and backward.

    .venv/bin/python tests/bench/bench_cuda_choice.py

It prints the line of xtra_toolkit/attention/dispatch.py that the measurement asks for. A ratio
above 1 says that SDPA is faster.
"""

import argparse
import json
import statistics
from pathlib import Path

import torch
from bench_attention import SHAPES, compare, pattern_of, sides
from spread import cell, row

from xtra_toolkit.attention.dispatch import DENSE_ON_CUDA, LONG

DENSE = [s for s in SHAPES if s.tokens <= LONG and pattern_of(s).kind == "staircase"]


def line(ratios: list[float]) -> str:
    """Return the line for dispatch.py: SDPA if it is faster by the median of all ratios."""
    chosen = "sdpa" if statistics.median(ratios) > 1 else "xformers"
    state = "as it stands" if chosen == DENSE_ON_CUDA else f"now {DENSE_ON_CUDA!r}: change it"
    return f'xtra_toolkit/attention/dispatch.py: DENSE_ON_CUDA = "{chosen}"  ({state})'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("there is no CUDA device")
    rows, medians = [], []
    print("| shape, bf16 | xformers / SDPA |\n|---|---|")
    for shape in DENSE:
        made = sides(shape, torch.bfloat16, "cuda", {"sdpa", "xformers"})
        if "xformers" not in made:
            print(f"| {shape} | xformers cannot serve; SDPA is taken |")
            continue
        seconds = compare(made, args.rounds)
        ratios = [x / s for x, s in zip(seconds["xformers"], seconds["sdpa"], strict=True)]
        medians.append(statistics.median(ratios))
        rows.append(row(f"SDPA against xformers, {shape}, bf16", ratios, "ratio"))
        print(f"| {shape} | {cell(ratios)} |", flush=True)
    if medians:
        print(line(medians))
    if args.json:
        args.json.write_text(json.dumps(dict(name="choice", rows=rows), indent=1))


if __name__ == "__main__":
    main()
