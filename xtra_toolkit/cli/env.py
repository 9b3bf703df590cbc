"""``xtra env``: print what a bug report needs."""

import platform
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

import click

# The packages that affect results. Those in a line replace each other: the originals and the
# maintained forks of docs/onedl.txt, which use the same import names.
PACKAGES = (
    *(("xtra_toolkit",), ("torch",), ("torchvision",), ("xformers",)),
    ("mmengine", "onedl-mmengine"),
    ("mmpretrain", "onedl-mmpretrain"),
    ("openmim", "onedl-mim"),
    ("mmcv-lite", "mmcv", "onedl-mmcv"),
    *(("numpy",), ("opencv-python",), ("pillow",), ("timm",)),
)
KINDS = ("full", "causal", "staircase")
SHAPE = (2, 256, 12, 64)


@click.command()
def env() -> None:
    """Print what a bug report needs.

    Versions, devices, which attention back end serves which training inputs on this machine and
    why not, what auto takes, and the plugins.
    """
    for part in (versions, devices, backends, plugins):
        for line in part():
            click.echo(line)


def versions() -> Iterator[str]:
    """Yield the versions of everything that affects numerical results."""
    import torch

    yield f"python           {platform.python_version()}, {platform.platform()}"
    for names in PACKAGES:
        installed = [name for name in names if _version(name)]
        for name in installed or names[:1]:
            yield f"{name:16} {_version(name) or 'not installed'}"
    yield f"CUDA build       {torch.version.cuda or 'none'}, cuDNN {torch.backends.cudnn.version()}"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def devices() -> Iterator[str]:
    """Yield the CPU with its threads, and the CUDA devices with compute capability and memory."""
    import torch

    capability = torch.backends.cpu.get_cpu_capability()
    yield f"CPU              {_cpu_name()}, {capability}, {torch.get_num_threads()} threads"
    for i in range(torch.cuda.device_count()):
        p = torch.cuda.get_device_properties(i)
        capability, memory = f"{p.major}.{p.minor}", p.total_memory / 2**30
        yield f"cuda:{i:<11} {p.name}, compute capability {capability}, {memory:.0f} GiB"


def _cpu_name() -> str:
    with suppress(OSError), open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def backends() -> Iterator[str]:
    """Yield which attention back ends support each mask and precision, and which auto selects."""
    import torch

    from xtra_toolkit.attention import BACKENDS, choose, processor
    from xtra_toolkit.attention.dispatch import SHORT

    device = "cuda" if torch.cuda.is_available() else "cpu"
    inputs = training_inputs(device)
    _, n, heads, dim = SHAPE
    yield f"attention        on {device}, {n} tokens, {heads} heads of {dim}, forward and backward"
    answers = {"auto": {name: f"takes {choose(*given)}" for name, given in inputs.items()}}
    for backend, module in BACKENDS.items():
        reasons = {name: module.unsupported_reason(*given) for name, given in inputs.items()}
        answers[backend] = {n: f"cannot serve: {r}" if r else "serves" for n, r in reasons.items()}
    for backend, by_input in answers.items():
        for answer, names in _grouped(by_input).items():
            which = "all" if len(names) == len(inputs) else ", ".join(names)
            yield f"  {backend:14} {which}: {answer}"
    if device == "cpu":
        yield f"  auto, bf16, up to {SHORT} tokens: {processor.reason()}"


def training_inputs(device: str) -> dict[str, tuple]:
    """Return, by name, queries (B, N, heads, dim) that need a gradient, and a pattern."""
    import torch

    from xtra_toolkit.attention import Pattern

    kv_lengths = 16 * (torch.arange(SHAPE[1]) // 16 + 1)
    host_kv_lengths = Pattern(
        "staircase",
        SHAPE[1],
        kv_lengths[None].to(device),
        host_kv_lengths=tuple(kv_lengths.tolist()),
    )
    return {
        f"{kind} {label}": (
            torch.zeros(SHAPE, dtype=dtype, device=device, requires_grad=True),
            host_kv_lengths if kind == "staircase" else Pattern(kind, SHAPE[1]),
        )
        for label, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32))
        for kind in KINDS
    }


def plugins() -> Iterator[str]:
    """Yield the installed plugins, and the error of each that failed to load."""
    import xtra_toolkit.installed_plugins  # noqa: F401, loads them
    from xtra_toolkit.plugins import FAILED, installed

    for name in sorted({*installed(), *FAILED}) or ["none"]:
        yield f"plugin           {name}" + (f", failed: {FAILED[name]}" if name in FAILED else "")


def _grouped(answers: dict[str, str]) -> dict[str, list[str]]:
    groups = defaultdict(list)
    for name, answer in answers.items():
        groups[answer].append(name)
    return groups
