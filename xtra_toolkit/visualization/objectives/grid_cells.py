"""Draw the cells of a grid in a matplotlib axis: squares, outlines and arrows."""

from collections.abc import Iterable
from typing import Any

from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PatchCollection
from matplotlib.patches import Rectangle

from xtra_toolkit.grid import PatchGrid

MANY = 16  # most arrows that are drawn
ABOVE = -1.4  # row at which tokens without pixels are drawn


def cells(axis: Axes, grid: PatchGrid, colours: list) -> None:
    """Draw the grid with a colour for each token; tokens without pixels are drawn above it."""
    squares(axis, grid, range(len(colours)), 1, colours, ec="w", lw=line(axis, grid))
    top = ABOVE - 0.55 if grid.extra else -0.55
    axis.set(xlim=(-0.55, grid.cols - 0.45), ylim=(grid.rows - 0.45, top), aspect="equal")
    axis.set_axis_off()


def squares(
    axis: Axes, grid: PatchGrid, tokens: Iterable[int], side: float, colours: object, **style: Any
) -> None:
    """Draw a square on each token; ``side`` is in units of a cell."""
    corners = [(x - side / 2, y - side / 2) for x, y in (place(t, grid) for t in tokens)]
    patches = [Rectangle(corner, side, side) for corner in corners]
    axis.add_collection(PatchCollection(patches, facecolors=colours, **dict(lw=0) | style))


def place(token: int, grid: PatchGrid) -> tuple[float, float]:
    """Return the centre of a token, (x, y) in columns and rows."""
    if token < grid.tokens:
        row, col = divmod(token, grid.cols)
        return col, row
    return token - grid.tokens, ABOVE


def cell_points(axis: Axes, grid: PatchGrid) -> float:
    """Return the side of a cell in points."""
    box = axis.get_position()
    width, height = axis.figure.get_size_inches()
    rows = grid.rows + 1.6 * bool(grid.extra)
    return 72 * min(box.width * width / grid.cols, box.height * height / rows)


def line(axis: Axes, grid: PatchGrid) -> float:
    """Return the width of the lines between cells in points."""
    return min(1.0, 0.05 * cell_points(axis, grid))


def outline(
    axis: Axes, grid: PatchGrid, tokens: list[int], colour: str, width: float = 2.2
) -> None:
    """Draw the boundary of a set of tokens; ``width`` is in points."""
    centres = {place(token, grid) for token in tokens}
    edges = [
        [(x - dy / 2 + dx / 2, y - dx / 2 + dy / 2), (x + dy / 2 + dx / 2, y + dx / 2 + dy / 2)]
        for x, y in centres
        for dx, dy in ((0, -1), (0, 1), (-1, 0), (1, 0))
        if (x + dx, y + dy) not in centres
    ]
    axis.add_collection(LineCollection(edges, colors=colour, lw=width, capstyle="projecting"))


def arrows(sources: list[int], targets: list[int], grid: PatchGrid) -> list[tuple[tuple, tuple]]:
    """Return (start, end) of arrows from each connected part of the sources to each of the targets.

    If these are more than ``MANY``, return one arrow from the centre of all sources to the centre
    of all targets.
    """
    sides = [{place(token, grid) for token in tokens} for tokens in (sources, targets)]
    starts, ends = ([_centre(part) for part in connected(side)] for side in sides)
    if len(starts) * len(ends) > MANY:
        starts, ends = ([_centre(side)] for side in sides)
    return [(start, end) for start in starts for end in ends if start != end]


def connected(centres: set[tuple]) -> list[set[tuple]]:
    """Split a set of cells into parts that are connected by the sides of cells."""
    parts, left = [], set(centres)
    while left:
        part, new = set(), {min(left)}
        while new:
            part |= new
            left -= new
            new = {(x + d, y + e) for x, y in new for d, e in ((0, 1), (0, -1), (1, 0), (-1, 0))}
            new &= left
        parts.append(part)
    return parts


def _centre(part: set[tuple]) -> tuple[float, float]:
    xs, ys = zip(*part, strict=True)
    return sum(xs) / len(part), sum(ys) / len(part)
