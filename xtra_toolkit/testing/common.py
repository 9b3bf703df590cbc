"""Hold the functions that the checks share."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.masks import Mask

GRID = PatchGrid(4, 4, (8, 8))
CPU = torch.device("cpu")
SEEDS = range(100, 116)  # other seeds than those of the certificate
BATCH = 128  # draws per seed
DRAWS = BATCH * len(SEEDS)


def require(condition: bool, message: str) -> None:
    """Raise an AssertionError unless the condition holds, also under ``python -O``."""
    if not condition:
        raise AssertionError(message)


@contextmanager
def explain_errors(advice: str) -> Iterator[None]:
    """Turn any exception in the block into an AssertionError with advice and the exception."""
    try:
        yield
    except AssertionError:
        raise
    except Exception as error:  # a plugin may raise anything
        raise AssertionError(f"{advice} ({type(error).__name__}: {error})") from error


@contextmanager
def one_thread() -> Iterator[None]:
    """Run the block in one thread: for small models more threads are slower on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def gen(seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a seeded generator."""
    return torch.Generator(device).manual_seed(seed)


def build_from_json(name: str, config: dict, build: Callable[[dict], Any]) -> Any:
    """Convert a config to JSON and back, as a checkpoint does, and build it."""
    with explain_errors(
        f"{name}: its config {config} does not survive JSON, as which checkpoints hold it; take "
        "numbers, strings, booleans, lists and dicts as arguments"
    ):
        return build(json.loads(json.dumps(config)))


def draw_many(mask: Callable[..., Mask], grid: PatchGrid, seed: int) -> Mask:
    """Return ``BATCH`` draws of a random mask as one batch.

    A mask that all images of a batch share is drawn ``BATCH`` times, and its fields are stacked.
    """
    generator = gen(seed)
    drawn = mask(grid, BATCH, generator)
    fields = (drawn.order, drawn.step, drawn.visible, drawn.context, drawn.decoder_step)
    if drawn.masks_per_image > 1 or any(value is not None and value.ndim > 1 for value in fields):
        return drawn
    draws = [mask(grid, 1, generator) for _ in range(BATCH)]
    for field in ("unit", "visible"):
        first, *others = (getattr(draw, field) for draw in draws)
        equal = first is None or all(torch.equal(first, other) for other in others)
        require(equal, f"`{field}` differs from draw to draw, but it is compiled only once")
    fields = ("order", "step", "context", "decoder_step")
    rows = {f: [getattr(draw, f) for draw in draws] for f in fields}
    return replace(drawn, **{f: torch.stack(v) for f, v in rows.items() if v[0] is not None})
