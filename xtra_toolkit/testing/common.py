"""What the checks share: sentences, a config's way through JSON, seeded generators."""

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
SEEDS = range(100, 116)  # others than the certificate's
BATCH = 128  # draws under one seed
DRAWS = BATCH * len(SEEDS)


def require(condition: bool, sentence: str) -> None:
    """AssertionError with a sentence, unless the condition holds; also under ``python -O``."""
    if not condition:
        raise AssertionError(sentence)


@contextmanager
def explain_errors(advice: str) -> Iterator[None]:
    """Whatever is raised inside becomes an AssertionError: the advice, and what was raised."""
    try:
        yield
    except AssertionError:
        raise
    except Exception as error:  # a stranger's code may raise anything
        raise AssertionError(f"{advice} ({type(error).__name__}: {error})") from error


@contextmanager
def one_thread() -> Iterator[None]:
    """The kit's models are so small that on a busy machine a second thread only waits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def gen(seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A seeded generator."""
    return torch.Generator(device).manual_seed(seed)


def carried(name: str, config: dict, build: Callable[[dict], Any]) -> Any:
    """What ``build`` makes of the config after its way through JSON, as in a checkpoint."""
    with explain_errors(
        f"{name}: its config {config} does not survive JSON, in which it travels; take numbers, "
        "strings, booleans, lists and dicts as arguments"
    ):
        return build(json.loads(json.dumps(config)))


def draw_many(mask: Callable[..., Mask], grid: PatchGrid, seed: int) -> Mask:
    """``BATCH`` draws of a random mask as one batch.

    A mask that the images of a batch share is drawn as often, and its fields are stacked.
    """
    generator = gen(seed)
    drawn = mask(grid, BATCH, generator)
    fields = (drawn.order, drawn.step, drawn.visible, drawn.context)
    if drawn.masks_per_image > 1 or any(value is not None and value.ndim > 1 for value in fields):
        return drawn
    draws = [mask(grid, 1, generator) for _ in range(BATCH)]
    for field in ("unit", "visible"):
        first, *others = (getattr(one, field) for one in draws)
        alike = first is None or all(torch.equal(first, other) for other in others)
        require(alike, f"`{field}` differs from draw to draw, and is compiled once")
    rows = {field: [getattr(one, field) for one in draws] for field in ("order", "step", "context")}
    return replace(drawn, **{f: torch.stack(v) for f, v in rows.items() if v[0] is not None})
