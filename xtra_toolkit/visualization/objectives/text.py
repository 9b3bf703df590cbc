"""An objective in lines of text."""

import re
import shutil
import textwrap
from collections.abc import Iterator

import click
import torch
from torch import Tensor

from xtra_toolkit.visualization.objectives.cost import ModelPart
from xtra_toolkit.visualization.objectives.view import View

THUMBNAIL = 32  # characters of a small matrix, two cells each
DOTS = torch.tensor([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])  # of a braille cell


def table(parts: list[ModelPart]) -> Iterator[str]:
    """Positions, attention, parameters and FLOPs of each part."""
    rows = [("part", "computes", "attention, back end", "parameters", "FLOPs")]
    rows += [(p.name, p.places, p.attention, amount(p.parameters), amount(p.flops)) for p in parts]
    total = (sum(p.parameters for p in parts), sum(p.flops for p in parts))
    rows += [("total", "", "", *map(amount, total))]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        left = [cell.ljust(width) for cell, width in zip(row[:3], widths, strict=False)]
        right = [cell.rjust(width) for cell, width in zip(row[3:], widths[3:], strict=True)]
        yield "  ".join(left + right)


def amount(number: int) -> str:
    """85663488 as '85.7 M'."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.1f} {letter}"
    return str(number)


def entry(name: str, text: str, width: int) -> str:
    """A name, and what is said of it, wrapped beside it; patch (3, 4) stays on one line."""
    whole = re.sub(r"\((\d+), (\d+)\)", "(\\1,\N{NO-BREAK SPACE}\\2)", text)
    indent = dict(initial_indent=f"{name:12} ", subsequent_indent=" " * 13)
    wrapped = textwrap.fill(whole, width, break_long_words=False, **indent)
    return wrapped.replace("\N{NO-BREAK SPACE}", " ")


def wrapped(text: str, width: int) -> list[str]:
    """Lines of at most ``width`` characters; 'flip-flop' stays whole."""
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)


def columns() -> int:
    """Of the terminal."""
    return shutil.get_terminal_size((100, 24)).columns


def order(view: View) -> Iterator[str]:
    """The grid with the position of each token, on a terminal its step as colour."""
    marks = [
        ("?" if hidden else "*" if context else " ")
        for hidden, context in zip(view.hidden.tolist(), view.context.tolist(), strict=True)
    ]
    width = max(map(len, view.numbers))
    grid, last = view.grid, max(1, int(view.steps.max()))
    if (width + 2) * grid.cols > columns():
        yield f"({grid.rows}×{grid.cols} tokens are too wide for this terminal; --out draws them)"
        return
    shown = [
        click.style(f" {number:>{width}}{mark}", bg=shade(int(step) / last), fg="white")
        for number, mark, step in zip(view.numbers, marks, view.steps, strict=True)
    ]
    for start in (*([grid.tokens] if grid.extra else []), *range(0, grid.tokens, grid.cols)):
        stop = start + (grid.extra if start == grid.tokens else grid.cols)
        yield "".join(shown[start:stop])
    key = {"*": "given, never predicted", "?": "hidden"}
    if said := [f"{mark} {key[mark]}" for mark in key if mark in marks]:
        yield "; ".join(said)


def shade(share: float) -> tuple[int, int, int] | None:
    """Dark blue for 0 to green for 1; none below 0."""
    return None if share < 0 else (40, int(40 + 90 * share), int(120 - 60 * share))


def attention(view: View) -> Iterator[str]:
    """Both matrices side by side, small: a dot stands for pairs that mostly attend."""
    if (view.sequence > 0).all():
        hidden = ", in the encoder of the shown ones" if view.hidden.any() else ""
        yield f"every position attends to every one{hidden}"
        return
    small = [braille(matrix) for matrix in (view.sequence, view.raster)]
    yield f"{'in sequence order':{THUMBNAIL}}    in raster order"
    for left, right in zip(*small, strict=True):
        yield f"{left:{THUMBNAIL}}    {right}"


def braille(pairs: Tensor) -> list[str]:
    """A matrix (N, N) of a view as lines of at most ``THUMBNAIL`` characters."""
    n = len(pairs)
    side = min(-(-n // 4) * 4, 2 * THUMBNAIL)
    scaled = (pairs > 0).float()[None, None]
    scaled = torch.nn.functional.interpolate(scaled, (side, side), mode="area")
    cells = (scaled[0, 0] >= 0.5).view(side // 4, 4, side // 2, 2).movedim(1, 2)
    codes = 0x2800 + (cells * DOTS).sum((-1, -2))
    return ["".join(map(chr, row)) for row in codes.tolist()]
