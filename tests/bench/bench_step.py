"""One training step of XTRA-B/16 at 256 px: this package against plain dense PyTorch.

    python tests/bench/bench_step.py
    python tests/bench/bench_step.py --null                # dense against dense: the noise
    python tests/bench/bench_step.py --dtype bf16 --masters --compile
    python tests/bench/bench_step.py --device cuda --depth 12 --decoder-depth 8 --batch 64 \
        --dtype fp32 bf16

A step is forward, backward and a fused AdamW update. Both sides start from the same weights, see
the same images and take turns, changing who goes first; the ratio is taken within a pair. The
defaults cut the depths so that two CPU cores finish in minutes. bf16 means autocast; on CPUs
without bf16 instructions it takes minutes a step. The dense side is always plain; --masters and
--compile change ours: weights in bf16 with fp32 masters, and torch.compile.

Peak memory has a process for each side. On CUDA it is all that torch allocated. On the CPU it is
what two steps add to the resident set once model and images are there: activations, gradients and
the optimiser's state.
"""

import argparse
import ctypes
import json
import math
import multiprocessing
import re
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from dense_xtra import DenseXTRA
from spread import cell, row
from torch import Tensor, nn

CONFIG = Path(__file__).parents[2] / "mmconfigs" / "xtra_vit-b16.py"


# ---- The two sides ------------------------------------------------------------------------------


def dense(depth: int, decoder_depth: int) -> nn.Module:
    return DenseXTRA(depth=depth, decoder_depth=decoder_depth)


def ours(depth: int, decoder_depth: int) -> nn.Module:
    """Build the shipped config with other depths and without drop path."""
    from mmengine.config import Config
    from mmpretrain.registry import MODELS

    model = Config.fromfile(CONFIG).model
    model.backbone.arch = dict(
        embed_dims=768, num_layers=depth, num_heads=12, feedforward_channels=3072
    )
    model.backbone.drop_path_rate = 0.0
    model.neck.depth = decoder_depth
    return MODELS.build(model)


def loss_of(model: nn.Module, images: Tensor) -> Tensor:
    return model(images) if isinstance(model, DenseXTRA) else model.loss(images, None)["loss"]


# Our parameters have the names of MMPretrain's VisionTransformer: modules, then their parts.
OUR_MODULES = {
    "patch_embed": "backbone.patch_embed.projection",
    "encoder": "backbone",
    "projection": "neck.projection",
    "decoder": "neck",
    "head": "head.predictors.0",
}
OUR_PARTS = {
    "norm1": "ln1",
    "qkv": "attn.qkv",
    "proj": "attn.proj",
    "norm2": "ln2",
    "fc1": "ffn.layers.0.0",
    "fc2": "ffn.layers.1",
    "norm": "ln1",
}


def our_name(name: str) -> str:
    module, *parts = name.split(".")
    return ".".join([OUR_MODULES[module], *(OUR_PARTS.get(part, part) for part in parts)])


@torch.no_grad()
def copy_weights(source: DenseXTRA, target: nn.Module) -> None:
    if isinstance(target, DenseXTRA):
        target.load_state_dict(source.state_dict())
        return
    weights = {our_name(name): param for name, param in source.named_parameters()}
    params = dict(target.named_parameters())
    if odd := sorted(weights.keys() ^ params.keys()):
        raise ValueError(f"parameters that only one side has: {', '.join(odd)}")
    to_raster = source.sequence_order().argsort()
    for name, value in weights.items():
        if name.endswith("pos_embed"):  # ours are stored in raster order
            value = value[to_raster.to(value.device)]
        params[name].copy_(value.reshape(params[name].shape))


# ---- Measuring ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """Hold the conditions of both sides; ``masters`` and ``compiled`` apply to ours alone."""

    dtype: str
    device: str
    batch: int
    depth: int
    decoder_depth: int
    masters: bool = False
    compiled: bool = False
    size: int = 256

    @property
    def name(self) -> str:
        ours = [word for word in ("masters", "compiled") if getattr(self, word)]
        return " ".join([self.dtype, *ours])

    def model(self, build: Callable[[int, int], nn.Module]) -> nn.Module:
        return build(self.depth, self.decoder_depth).train().to(self.device)

    def images(self) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return torch.randn(self.batch, 3, self.size, self.size, generator=generator).to(self.device)

    def loss(self, model: nn.Module, images: Tensor) -> Tensor:
        half = self.dtype == "bf16"
        with torch.autocast(self.device, torch.bfloat16) if half else nullcontext():
            return loss_of(model, images)


class Trainer:
    """Hold a model with its optimiser and images; ``seconds`` times training steps."""

    def __init__(self, case: Case, model: nn.Module, plain: bool = False):
        self.case, self.model, self.images = case, model, case.images()
        self.optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        self.loss = case.loss
        if plain or isinstance(model, DenseXTRA):
            return
        if case.masters:
            self.use_masters()
        if case.compiled:
            self.loss = torch.compile(self.loss)

    def use_masters(self) -> None:
        from xtra_toolkit.engine import MasterWeightsOptimWrapper

        wrapper, plain = MasterWeightsOptimWrapper(self.optimizer), replace(self.case, dtype="")
        self.loss, self.context = plain.loss, lambda: wrapper.optim_context(self.model)

    context = staticmethod(nullcontext)  # of the forward pass

    def first_loss(self) -> float:
        with torch.no_grad(), self.context():
            return self.loss(self.model, self.images).item()

    def step(self) -> None:
        with self.context():
            loss = self.loss(self.model, self.images)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def seconds(self, steps: int) -> float:
        self.synchronize()
        start = time.perf_counter()
        for _ in range(steps):
            self.step()
        self.synchronize()
        return time.perf_counter() - start

    def synchronize(self) -> None:
        if self.case.device == "cuda":
            torch.cuda.synchronize()


def peak_bytes(case: Case, build: Callable[[int, int], nn.Module]) -> int:
    """Return the peak memory of two training steps (the second one has the optimiser's state)."""
    trainer = Trainer(case, case.model(build))
    before = fresh_high_water()
    trainer.seconds(2)
    if case.device == "cuda":
        return torch.cuda.max_memory_allocated()
    return high_water() - before


def high_water() -> int:
    """Return the largest resident memory of this process so far, in bytes."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status).group(1))


def fresh_high_water() -> int:
    """Return the same, counted from now: memory freed since building is returned first (glibc)."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return high_water()


def peak_bytes_alone(case: Case, build: Callable[[int, int], nn.Module]) -> int:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(peak_bytes, (case, build))


def measure(
    case: Case, sides: list[Callable[[int, int], nn.Module]], pairs: int, steps: int, warmup: int
) -> tuple[list[float], list[tuple[float, float]]]:
    """Return the losses of both sides before training, and the seconds of each pair."""
    torch.manual_seed(0)
    models = [case.model(build) for build in sides]
    copy_weights(*models)
    trainers = [Trainer(case, model) for model in models]
    losses = [trainer.first_loss() for trainer in trainers]
    if case.dtype == "fp32" and not math.isclose(*losses, rel_tol=1e-5):
        raise ValueError(f"losses on the same weights and images differ: {losses}")

    for trainer in trainers:
        trainer.seconds(warmup)
    seconds = []
    for pair in range(pairs):
        first, second = trainers if pair % 2 == 0 else trainers[::-1]
        times = {first: first.seconds(steps), second: second.seconds(steps)}
        seconds.append((times[trainers[0]], times[trainers[1]]))
    return losses, seconds


# ---- The table ----------------------------------------------------------------------------------


def entries(case: Case, steps: int, peaks: list[int], seconds: list[tuple]) -> list[dict]:
    """Return what is measured, as --json writes it."""
    times = [[1000 * s / steps for s in side] for side in zip(*seconds, strict=True)]
    found = {
        ("throughput, ours / dense", "ratio"): [theirs / mine for theirs, mine in seconds],
        ("step, dense", "ms"): times[0],
        ("step, ours", "ms"): times[1],
        ("peak memory, dense", "MiB"): [peaks[0] / 2**20],
        ("peak memory, ours", "MiB"): [peaks[1] / 2**20],
    }
    return [row(f"{case.name}: {what}", values, unit) for (what, unit), values in found.items()]


def line(
    case: Case,
    steps: int,
    peaks: list[int],
    losses: list[float],
    seconds: list[tuple[float, float]],
) -> str:
    ratios = [theirs / mine for theirs, mine in seconds]
    speeds = [case.batch * steps / statistics.median(side) for side in zip(*seconds, strict=True)]
    cells = [
        case.name,
        cell(ratios),
        f"{speeds[0]:.3g} → {speeds[1]:.3g}",
        f"{peaks[1] / peaks[0]:.2f}",
        f"{peaks[0] / 2**20:.0f} → {peaks[1] / 2**20:.0f}",
        f"{losses[0]:.7f}",
        f"{losses[1]:.7f}",
    ]
    return f"| {' | '.join(cells)} |"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=6, help="at least 5 (default)")
    parser.add_argument("--steps", type=int, help="a measurement; default 1, on CUDA 10")
    parser.add_argument("--warmup", type=int, help="steps of each side; default 1, on CUDA 10")
    parser.add_argument("--depth", type=int, default=4, help="encoder layers; XTRA-B has 12")
    parser.add_argument("--decoder-depth", type=int, default=3, help="XTRA-B has 8")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--dtype", nargs="+", default=["fp32"], choices=["fp32", "bf16"])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--null", action="store_true", help="dense against dense")
    parser.add_argument("--masters", action="store_true", help="ours: bf16 weights, fp32 masters")
    parser.add_argument("--compile", action="store_true", help="ours: torch.compile")
    parser.add_argument("--json", type=Path, help="write the rows to this file too")
    args = parser.parse_args()
    if args.pairs < 5:
        parser.error(f"--pairs must be at least 5, got {args.pairs}")
    default = 10 if args.device == "cuda" else 1
    args.steps, args.warmup = args.steps or default, args.warmup or default
    return args


def main() -> None:
    args = parse()
    sides = [dense, dense if args.null else ours]
    shared = Case("", args.device, args.batch, args.depth, args.decoder_depth)
    cases = [
        replace(
            shared, dtype=dtype, masters=args.masters and dtype == "bf16", compiled=args.compile
        )
        for dtype in args.dtype
    ]
    # Memory first: a new process inherits the peak of the one that starts it, still small here.
    peaks = [[peak_bytes_alone(case, build) for build in sides] for case in cases]

    where = torch.cuda.get_device_name() if args.device == "cuda" else torch.get_num_threads()
    print(f"torch {torch.__version__}, {args.device} ({where}), batch {args.batch}, ", end="")
    print(f"encoder {args.depth} layers, decoder {args.decoder_depth}, {args.pairs} pairs\n")
    print("| dtype | throughput, ours / dense: median (min..max) | images/s, dense → ours ", end="")
    print("| peak memory, ours / dense | MiB, dense → ours | loss, dense | loss, ours |")
    print("|---|---|---|---|---|---|---|")
    rows = []
    for case, peak in zip(cases, peaks, strict=True):
        losses, seconds = measure(case, sides, args.pairs, args.steps, args.warmup)
        print(line(case, args.steps, peak, losses, seconds), flush=True)
        rows += entries(case, args.steps, peak, seconds)
    if args.json:
        args.json.write_text(json.dumps(dict(name="step", rows=rows), indent=2))


if __name__ == "__main__":
    main()
