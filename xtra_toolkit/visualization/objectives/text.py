"""Print an objective in lines of text."""

import re
import shutil
import textwrap
from collections.abc import Iterator

import click
import torch
from torch import Tensor

from xtra_toolkit.visualization.objectives.cost import ModelPart
from xtra_toolkit.visualization.objectives.view import View

THUMBNAIL = 32  # characters in a row of a small matrix; each shows two columns
DOTS = torch.tensor([[1, 8], [2, 16], [4, 32], [64, 128]])  # of a braille character


def table(parts: list[ModelPart]) -> Iterator[str]:
    """Yield the lines of a table: positions, attention, parameters and FLOPs of each part."""
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
    """Format a number in short, 85663488 as '85.7 M'."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.1f} {letter}"
    return str(number)


def entry(name: str, text: str, width: int) -> str:
    """Format a name with a text wrapped beside it; '(3, 4)' is not broken."""
    unbroken = re.sub(r"\((\d+), (\d+)\)", "(\\1,\N{NO-BREAK SPACE}\\2)", text)
    indent = dict(initial_indent=f"{name:12} ", subsequent_indent=" " * 13)
    wrapped = textwrap.fill(unbroken, width, break_long_words=False, **indent)
    return wrapped.replace("\N{NO-BREAK SPACE}", " ")


def wrapped(text: str, width: int) -> list[str]:
    """Wrap to lines of at most ``width`` characters; words with hyphens are not broken."""
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)


def columns() -> int:
    """Return the width of the terminal in characters."""
    return shutil.get_terminal_size((100, 24)).columns


def order(view: View) -> Iterator[str]:
    """Yield the rows of the grid: the position of each token, coloured by its step."""
    marks = [
        ("?" if hidden else "*" if context else " ")
        for hidden, context in zip(view.hidden.tolist(), view.context.tolist(), strict=True)
    ]
    width = max(map(len, view.numbers))
    grid, last = view.grid, max(1, int(view.steps.max()))
    if (width + 2) * grid.cols > columns():
        yield f"({grid.rows}×{grid.cols} tokens are too wide for this terminal; --out draws them)"
        return
    styled = [
        click.style(f" {number:>{width}}{mark}", bg=shade(int(step) / last), fg="white")
        for number, mark, step in zip(view.numbers, marks, view.steps, strict=True)
    ]
    for start in (*([grid.tokens] if grid.extra else []), *range(0, grid.tokens, grid.cols)):
        stop = start + (grid.extra if start == grid.tokens else grid.cols)
        yield "".join(styled[start:stop])
    meanings = {"*": "context, never predicted", "?": "hidden"}
    if legend := [f"{mark} {meaning}" for mark, meaning in meanings.items() if mark in marks]:
        yield "; ".join(legend)


def shade(share: float) -> tuple[int, int, int] | None:
    """Return a colour from dark blue for 0 to green for 1; None below 0."""
    return None if share < 0 else (40, int(40 + 90 * share), int(120 - 60 * share))


def attention(view: View) -> Iterator[str]:
    """Yield both attention matrices side by side, scaled down."""
    own = view.mask.own_decoder
    if (view.sequence > 0).all() and not own:
        hidden = ", in the encoder of the visible ones" if view.hidden.any() else ""
        yield f"every position attends to every one{hidden}"
        return
    left, right = "in sequence order", "in raster order"
    if own:
        left, right = "in the encoder", "in the decoder"
    matrices = (view.encoder, view.decoder) if own else (view.sequence, view.raster)
    small = [braille(matrix) for matrix in matrices]
    yield f"{left:{THUMBNAIL}}    {right}"
    for left, right in zip(*small, strict=True):
        yield f"{left:{THUMBNAIL}}    {right}"


def braille(pairs: Tensor) -> list[str]:
    """Draw a matrix (N, N) of a view in lines of at most ``THUMBNAIL`` characters.

    A dot means that most of the pairs that it covers attend.
    """
    n = len(pairs)
    side = min(-(-n // 4) * 4, 2 * THUMBNAIL)
    scaled = (pairs > 0).float()[None, None]
    scaled = torch.nn.functional.interpolate(scaled, (side, side), mode="area")
    cells = (scaled[0, 0] >= 0.5).view(side // 4, 4, side // 2, 2).movedim(1, 2)
    codes = 0x2800 + (cells * DOTS).sum((-1, -2))
    return ["".join(map(chr, row)) for row in codes.tolist()]
