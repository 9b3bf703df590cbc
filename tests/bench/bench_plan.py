"""Plans for a batch of random masks: what a step waits for before it has a model to run.

    python tests/bench/bench_plan.py
    python tests/bench/bench_plan.py --device cuda --json plan.json

A row is the objective of one pair of mask and target, called as the pretrainer calls it with the
seeds of the images, which go to the device first. The limits are 20 ms on two CPU cores and 2 ms on
a GPU, for 256 images of 16×16 tokens.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from spread import row

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.masks import BlockCausal, PrefixCausal, RandomShown, Reordered
from xtra_toolkit.masks.rng import StepGenerator
from xtra_toolkit.objective.compiled import CompiledObjective
from xtra_toolkit.objective.compiler import certify_objective
from xtra_toolkit.targets import MaskedPatches, NextBlock, NextToken

sys.path.insert(0, str(Path(__file__).parents[2] / "plugins" / "block_orders"))
from block_orders import RandomOrder


def pairs() -> dict[str, tuple[Callable, torch.nn.Module]]:
    """Return the mask and the target of each row."""
    return {
        "MAE": (RandomShown(), MaskedPatches()),
        "AIM with prefix": (PrefixCausal(), NextToken()),
        "XTRA, block order random": (BlockCausal(4, order="random"), NextBlock()),
        "XTRA, an order for each image": (
            Reordered(BlockCausal(4), RandomOrder()),
            NextBlock(positioned=True),
        ),
    }


def milliseconds(
    objective: CompiledObjective, batch: int, device: torch.device, calls: int
) -> list[float]:
    """Return the milliseconds of each call; on a GPU until the plan is computed."""
    times = []
    for call in range(calls + 3):
        start = time.perf_counter()
        objective(batch, device, StepGenerator(list(range(batch)), call, device))
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(1000 * (time.perf_counter() - start))
    return times[3:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--side", type=int, default=16, help="tokens along a side of the image")
    parser.add_argument("--calls", type=int, default=50)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--json", type=Path, help="write the rows to this file too")
    args = parser.parse_args()
    grid, rows = PatchGrid(args.side, args.side, (16, 16)), []
    for what, (mask, target) in pairs().items():
        times = milliseconds(
            certify_objective(mask, target, grid), args.batch, args.device, args.calls
        )
        rows.append(row(what, times, "ms"))
    print(f"{args.calls} plans of {args.batch} images on {grid}, {args.device}\n")
    print("| pair | median, ms | min | max |\n|---|---|---|---|")
    for each in rows:
        print(f"| {each['what']} | {each['median']:.2f} | {each['min']:.2f} | {each['max']:.2f} |")
    if args.json:
        args.json.write_text(json.dumps(dict(name="plan", rows=rows), indent=2))


if __name__ == "__main__":
    main()
