"""All benchmarks one after another, as one table and one JSON file (make bench, make bench-gpu).

    python tests/bench/run_all.py [--device cuda] [--only step plan ...] [--json FILE]

Each runs in a process of its own, prints its own table and hands its rows over. A ratio above 1
says that ours is faster, but for `sweep`, which says how much longer seven probes take than one,
and for `memory`, which says how much longer a step takes than a plain one.
Nothing else should run meanwhile: two busy threads on two cores wait for each other.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

HERE = Path(__file__).parent
# malloc keeps what it freed, or page faults drown the difference (glibc)
MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(8 << 30), "MALLOC_TRIM_THRESHOLD_": str(16 << 30)}
SIX = ["bench_step.py", "--depth", "6", "--decoder-depth", "4", "--pairs", "7", "--warmup", "2"]
CPU = {
    "step": [[*SIX, "--dtype", "fp32", "bf16"],
             [*SIX, "--dtype", "bf16", "--masters"],
             [*SIX, "--dtype", "bf16", "--masters", "--compile"]],
    "peers": [["bench_peers.py"]],
    "attention": [["bench_attention.py", "--dtype", "fp32", "bf16"]],
    "plan": [["bench_plan.py"]],
    "input": [["bench_input.py"]],
    "sweep": [["bench_sweep.py", "--pairs", "9"]],
    "index": [["bench_index.py"]],
    "memory": [["bench_memory.py"]],
}  # fmt: skip
FULL = ["--depth", "12", "--decoder-depth", "8", "--batch", "64", "--dtype", "fp32", "bf16"]
CUDA = {
    "choice": [["bench_cuda_choice.py"]],
    "step": [["bench_step.py", "--device", "cuda", *FULL],
             ["bench_step.py", "--device", "cuda", *FULL, "--compile"],
             ["bench_step.py", "--device", "cuda", *FULL, "--masters", "--compile"]],
    "peers": [["bench_peers.py", "--device", "cuda"]],
    "attention": [["bench_attention.py", "--device", "cuda", "--dtype", "fp32", "bf16"]],
    "plan": [["bench_plan.py", "--device", "cuda"]],
    "memory": [["bench_memory.py", "--device", "cuda", "--batch", "64", "--dtype", "bf16",
                "--steps", "10", "--compile"]],
}  # fmt: skip


def run(command: list[str]) -> list[dict]:
    """Return the rows of one benchmark; its own table goes to the terminal."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.json"
        print(f"\n$ {' '.join(command)}\n", flush=True)
        full = [sys.executable, "-W", "ignore", HERE / command[0], *command[1:], "--json", file]
        subprocess.run(full, env=os.environ | MALLOC, check=True)
        return json.loads(file.read_text())["rows"]


def machine(device: str) -> dict[str, str | int]:
    """Describe the machine on which the figures were measured."""
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
         if line.startswith("model name")), platform.processor()
    )  # fmt: skip
    found = dict(torch=torch.__version__, threads=torch.get_num_threads(), cpu=cpu)
    return found | (dict(gpu=torch.cuda.get_device_name()) if device == "cuda" else {})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these benchmarks alone")
    parser.add_argument("--json", type=Path, default=Path("work_dirs/bench.json"))
    args = parser.parse_args()
    commands = CUDA if args.device == "cuda" else CPU
    if unknown := set(args.only or ()) - set(commands):
        parser.error(
            f"--only {' '.join(sorted(unknown))} was given; on {args.device} there are "
            f"{', '.join(commands)}"
        )
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda was given, and there is no CUDA device")
    names = [name for name in commands if not args.only or name in args.only]
    rows = [
        dict(row, benchmark=name)
        for name in names
        for command in commands[name]
        for row in run(command)
    ]
    print(f"\n{machine(args.device)}\n\n| benchmark | what | median | min | max | unit |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        low, mid, high = (f"{row[key]:.3g}" for key in ("min", "median", "max"))
        print(f"| {row['benchmark']} | {row['what']} | {mid} | {low} | {high} | {row['unit']} |")
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(dict(machine=machine(args.device), rows=rows), indent=1))
    print(f"\n{args.json}")


if __name__ == "__main__":
    main()
