"""Estimate how many images a process can train on at once."""

from pathlib import Path

import torch
from torch import Tensor

from xtra_toolkit.models import MaskTargetPretrainer
from xtra_toolkit.visualization.objectives.cost import on_sdpa

SHARE = 0.5  # of the free memory that a micro-batch may take
MOST = 256  # images; more make a step no faster
STATE = 16  # bytes a parameter: weight, gradient and two averages in float32
KEPT = 2 * 4  # bytes an activation: float32, and as much again for what the kernels keep


def images_that_fit(model: MaskTargetPretrainer, processes: int) -> int:
    """Return how many images fit; the estimate errs on the low side.

    Args:
        model: A pretrainer on the meta device.
        processes: How many train on this machine; they share the memory of a CPU.
    """
    parameters = sum(p.numel() for p in model.parameters())
    free = SHARE * free_bytes() / (1 if torch.cuda.is_available() else processes)
    room = free - STATE * parameters
    return max(1, min(MOST, int(room / (KEPT * activations(model)))))


def free_bytes() -> float:
    """Return the free memory of the first GPU, or of the machine where there is none."""
    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(li.split()[1]) << 10 for li in lines if li.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return 4 << 30


def activations(model: MaskTargetPretrainer) -> int:
    """Count the numbers that the layers of a pretrainer put out for one image."""
    grid, meta, counts = model.backbone.grid, torch.device("meta"), []

    def add(module: torch.nn.Module, inputs: tuple, output: object) -> None:
        if isinstance(output, Tensor):
            counts.append(output.numel())

    leaves = [module for module in model.modules() if not list(module.children())]
    hooks = [leaf.register_forward_hook(add) for leaf in leaves]
    images = torch.empty(1, grid.channels, *grid.img_size, device=meta)
    plan = model.objective(1, meta, torch.Generator().manual_seed(0))
    with on_sdpa(model), torch.no_grad():
        model.reconstruct(images, plan)
    for hook in hooks:
        hook.remove()
    return max(sum(counts), 1)
