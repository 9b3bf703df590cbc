"""Calculate the table "Scale, on paper" of docs/cluster.md: what a run on many GPUs would take.

    python docs/scale.py

From the models: FLOPs and parameters, counted, and the bytes that an image keeps for the backward
pass, under autocast on the CPU. From data sheets: the machine below. Nothing is timed.
"""

import logging
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from mmengine.config import Config
from mmpretrain.registry import MODELS

from xtra_toolkit.visualization.objectives.cost import count, flops

CONFIGS = Path(__file__).parents[1] / "mmconfigs"
# DGX H100 (NVIDIA's data sheet): bf16 without sparsity, NVLink one way, and a 400 Gb/s port a GPU
PEAK, MEMORY, NVLINK, PORT = 989e12, 80e9, 450e9, 50e9
SHARE = 0.8  # of a link that a large all-reduce gets: assumed
UTILISATION = 0.4  # of PEAK: assumed, as ViTs of this size reach it in others' reports
CORE = 1.16e-3  # seconds of a core for an image: docs/speed.md
FILE = 110e3  # bytes of an ImageNet JPEG, on average


@dataclass(frozen=True)
class Run:
    config: str
    gpus: int
    batch: int  # global
    images: float  # in all
    ports: int  # of a node


RUNS = [
    Run("xtra_vit-b16", 8, 2048, 800 * 1.281e6, 8),
    Run("xtra_vit-h14", 96, 2112, 100 * 13.1e6, 8),
    Run("xtra_vit-h14", 96, 2112, 100 * 13.1e6, 1),
]


def kept(model: torch.nn.Module, images: int, side: int) -> int:
    """Bytes that the forward pass keeps for the backward pass."""
    held = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", torch.bfloat16):
        model.loss(torch.randn(images, 3, side, side))
    return sum(storage.nbytes() for storage in held.values())


@cache
def model_of(name: str) -> tuple[int, int, int]:
    """Parameters, FLOPs of an image forward, bytes that an image keeps."""
    config = Config.fromfile(CONFIGS / f"{name}.py").model
    side = config.backbone.img_size
    for part in config.backbone, config.neck:
        part.attention = "sdpa"  # keeps as much as the flash kernels of a GPU
    with torch.device("meta"):
        meta = MODELS.build(config)
    model = MODELS.build(config)
    return count(meta), sum(flops(meta)), kept(model, 2, side) - kept(model, 1, side)


def rows(run: Run) -> list[tuple[str, str]]:
    parameters, forward, image = model_of(run.config)
    share, nodes = run.batch / run.gpus, run.gpus // 8
    compute = 3 * forward * share / PEAK / UTILISATION
    gradients = 4 * parameters
    # every ring passes each node once, and the rings share its ports
    if nodes > 1:
        reduce = 2 * gradients * (nodes - 1) / nodes / (run.ports * PORT * SHARE)
    else:
        reduce = 2 * gradients * (run.gpus - 1) / run.gpus / (NVLINK * SHARE)
    step = compute / 3 + max(compute * 2 / 3, reduce)  # it overlaps with the backward pass
    speed = run.batch / step
    return [
        (
            "parameters, FLOPs of an image forward",
            f"{parameters / 1e6:.0f} M, {forward / 1e9:.0f} G",
        ),
        ("images a GPU", f"{share:.0f}"),
        ("weights, gradients, Adam, bf16 copies: 18 bytes each", f"{18 * parameters / 1e9:.1f} GB"),
        ("activations: an image, all", f"{image / 1e6:.0f} MB, {image * share / 1e9:.0f} GB"),
        ("compute", f"{1e3 * compute:.0f} ms"),
        ("all-reduce of float32 gradients", f"{1e3 * reduce:.0f} ms"),
        ("a step", f"{1e3 * step:.0f} ms"),
        ("images a second, all and a GPU", f"{speed:,.0f}, {speed / run.gpus:,.0f}"),
        ("cores that feed a GPU", f"{speed / run.gpus * CORE:.1f}"),
        ("read from disks", f"{speed * FILE / 1e9:.1f} GB/s, {speed:,.0f} files/s"),
        ("the whole run", f"{run.images / speed / 3600:.0f} h"),
    ]


def main() -> None:
    logging.disable(logging.INFO)
    columns = [rows(run) for run in RUNS]
    heads = [f"{run.config}, {run.gpus} GPUs, {run.ports} ports a node" for run in RUNS]
    print(f"| | {' | '.join(heads)} |\n|---|{'---|' * len(RUNS)}")
    for line in zip(*columns, strict=True):
        print(f"| {line[0][0]} | {' | '.join(value for _, value in line)} |")


if __name__ == "__main__":
    main()
