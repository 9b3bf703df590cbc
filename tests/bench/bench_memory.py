"""Peak memory of a training step of XTRA-B/16, 256 px: what checkpointing, accumulation, bf16 save.

    python tests/bench/bench_memory.py
    python tests/bench/bench_memory.py --dtype bf16 --compile
    python tests/bench/bench_memory.py --device cuda --batch 64 --dtype bf16 --compile

Each way has a process of its own and makes two steps of the same images, the second with the
optimiser's state. On CUDA the peak is all that torch allocated. On the CPU it is the weights and
what the steps add to the resident set, where malloc gives back at once what is freed. Times are
taken afterwards, all ways by turns in one process, each over the plain step's of the same round.
"""

import argparse
import json
import multiprocessing
import os
import time
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import torch
from bench_step import Case, fresh_high_water, high_water, ours
from mmengine.logging import MMLogger
from spread import cell, row
from torch import nn

from xtra_toolkit.engine import AutocastOptimWrapper, MasterWeightsOptimWrapper
from xtra_toolkit.models.layers import MaskedLayer


@dataclass(frozen=True)
class Way:
    """Describe how a step is made."""

    with_cp: bool = False
    accumulation: int = 1
    masters: bool = False
    compiled: bool = False

    def name(self, batch: int) -> str:
        parts = []
        if self.masters:
            parts.append("bf16 weights")
        if self.with_cp:
            parts.append("checkpointing")
        if self.accumulation > 1:
            parts.append(f"{self.accumulation} x {batch // self.accumulation} accumulated")
        if self.compiled:
            parts.append("compiled")
        return ", ".join(parts) or "plain"


PLAIN = Way()
WAYS = [PLAIN, Way(True), Way(False, 2), Way(False, 4), Way(True, 4)]
MASTERS = [Way(masters=True), Way(True, masters=True), Way(True, 4, masters=True)]
COMPILED = [Way(compiled=True), Way(True, compiled=True)]


def ways(dtype: str, compiled: bool) -> list[Way]:
    """Return the ways; bf16 weights and compilation are measured in bf16 only."""
    if dtype == "fp32":
        return WAYS
    return WAYS + MASTERS + (COMPILED if compiled else [])


class Training:
    """Hold a model with its optimizer wrapper; ``seconds`` times a step of some way."""

    def __init__(self, case: Case, masters: bool):
        self.case, self.model, self.images = case, case.model(ours), case.images()
        self.loss = {False: self.model.loss, True: torch.compile(self.model.loss)}
        adamw = torch.optim.AdamW(self.model.parameters(), fused=True)
        if masters:
            self.wrapper = MasterWeightsOptimWrapper(adamw)
        else:
            dtype = "bfloat16" if case.dtype == "bf16" else "float32"
            self.wrapper = AutocastOptimWrapper(dtype, [case.device], optimizer=adamw)

    def step(self, way: Way) -> None:
        for layer in self.model.modules():
            if isinstance(layer, MaskedLayer):
                layer.with_cp = way.with_cp
        self.wrapper._accumulative_counts, self.wrapper._inner_count = way.accumulation, 0
        for images in self.images.chunk(way.accumulation):
            with self.wrapper.optim_context(self.model):
                loss = self.loss[way.compiled](images)["loss"]
            self.wrapper.update_params(loss)

    def seconds(self, way: Way, steps: int) -> float:
        cuda = self.case.device == "cuda"
        torch.cuda.synchronize() if cuda else None
        start = time.perf_counter()
        for _ in range(steps):
            self.step(way)
        torch.cuda.synchronize() if cuda else None
        return (time.perf_counter() - start) / steps


def weights(model: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in model.parameters())


def peak_bytes(case: Case, way: Way) -> int:
    MMLogger.get_instance("mmengine", log_level="ERROR")
    training = Training(case, way.masters)
    before = fresh_high_water() - weights(training.model)
    training.seconds(way, 2)
    if case.device == "cuda":
        return torch.cuda.max_memory_allocated()
    return high_water() - before


def peak_bytes_alone(case: Case, way: Way) -> int:
    exact = mock.patch.dict(os.environ, MALLOC_MMAP_THRESHOLD_="65536", MALLOC_TRIM_THRESHOLD_="0")
    with exact, multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(peak_bytes, (case, way))


def ratios(case: Case, them: list[Way], rounds: int, steps: int) -> dict[Way, list[float]]:
    """Return, for each way, its seconds divided by those of the plain step of the same round."""
    trainings = {masters: Training(case, masters) for masters in {way.masters for way in them}}
    for way in them:
        trainings[way.masters].seconds(way, 1)
    found = {way: [] for way in them}
    for i in range(rounds):
        order = them if i % 2 == 0 else them[::-1]
        times = {way: trainings[way.masters].seconds(way, steps) for way in order}
        for way in them:
            found[way].append(times[way] / times[PLAIN])
    return found


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="of times; 0: memory alone")
    parser.add_argument("--steps", type=int, default=1, help="a measurement of time")
    parser.add_argument("--depth", type=int, default=12, help="encoder layers")
    parser.add_argument("--decoder-depth", type=int, default=8)
    parser.add_argument("--batch", type=int, default=16, help="a multiple of 4")
    parser.add_argument("--dtype", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--compile", action="store_true", help="torch.compile too, in bf16")
    parser.add_argument("--json", type=Path, help="write the rows to this file too")
    args = parser.parse_args()
    if args.batch % 4:
        parser.error(f"--batch must be a multiple of 4, got {args.batch}")
    return args


def main() -> None:
    args, rows = parse(), []
    MMLogger.get_instance("mmengine", log_level="ERROR")
    print(f"XTRA-B/16, {args.depth} + {args.decoder_depth} layers, batch {args.batch}\n")
    print("| dtype | step | peak MiB | over plain | time over plain: median (min..max) |")
    print("|---|---|---|---|---|")
    for dtype in args.dtype:
        case = Case(dtype, args.device, args.batch, args.depth, args.decoder_depth)
        them = ways(dtype, args.compile)
        peaks = {way: peak_bytes_alone(case, way) / 2**20 for way in them}
        times = ratios(case, them, args.rounds, args.steps) if args.rounds else {}
        for way in them:
            name, over = way.name(args.batch), peaks[way] / peaks[PLAIN]
            taken = cell(times[way]) if way in times else ""
            print(f"| {dtype} | {name} | {peaks[way]:.0f} | {over:.2f} | {taken} |", flush=True)
            rows.append(row(f"{dtype}: {name}, peak memory", [peaks[way]], "MiB"))
            if way in times:
                rows.append(row(f"{dtype}: {name}, time over plain", times[way], "ratio"))
    if args.json:
        args.json.write_text(json.dumps(dict(name="memory", rows=rows), indent=2))


if __name__ == "__main__":
    main()
