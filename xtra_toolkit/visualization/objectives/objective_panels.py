"""The panels of the figure of an objective: the order, one prediction, the attention matrix.

Each function draws into a matplotlib axis and returns the entries of its legend.
"""

from collections.abc import Sequence

from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch, Rectangle
from torch import Tensor

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.visualization.objectives.grid_cells import (
    arrows,
    cell_points,
    cells,
    connected,
    line,
    outline,
    place,
    squares,
)
from xtra_toolkit.visualization.objectives.prediction import Prediction
from xtra_toolkit.visualization.objectives.view import (
    BLIND,
    BOTH,
    DEAD,
    DECODER,
    ENCODER,
    View,
)

STEPS = colormaps["viridis"]
GREY, PALE, INK = "#d9d9d9", "#f5f7fa", "#333333"
READ, SOURCE, TARGET, LEAK = "#b3cde6", "#08519c", "#fd8d3c", "#de2d26"
PAIRS = {
    BLIND: (PALE, "no"),
    DEAD: ("#b0b0b0", "never computed"),
    DECODER: ("#9ecae1", "decoder alone"),
    ENCODER: ("#c994c7", "encoder alone"),
    BOTH: ("#2b7bba", "encoder and decoder"),
}


def order_panel(axis: Axes, view: View) -> list[Artist]:
    """Draw the order of the tokens: positions as numbers and steps as colours.

    Numbers are left out if they do not fit. Hidden tokens are grey, context tokens are framed, and
    a wider line surrounds each unit, see :func:`framed`.
    """
    steps, hidden, context = view.steps, view.hidden, view.context
    last = max(1, int(steps.max()))
    colours = [
        PALE if step < 0 else GREY if grey else STEPS(step / (1.2 * last))
        for step, grey in zip(steps.tolist(), hidden.tolist(), strict=True)
    ]
    cells(axis, view.grid, colours)
    squares(axis, view.grid, context.nonzero().flatten().tolist(), 0.84, "white")
    for unit in framed(view):
        outline(axis, view.grid, unit, "white", 3 * line(axis, view.grid))
    size = font_size(axis, view)
    for token, number in enumerate(view.numbers if size else ()):
        light = context[token] or hidden[token] or steps[token] > 0.75 * last
        ink = INK if light else "white"
        axis.text(*place(token, view.grid), number, ha="center", va="center", size=size, color=ink)
    if view.grid.extra:
        x, y = place(view.tokens - 1, view.grid)
        axis.text(x + 0.8, y, "without pixels", va="center", size=8, color=INK)
    legend, filled = [], steps[(steps >= 0) & ~hidden & ~context].unique().tolist()
    if steps.max() > 0:
        ends = filled if len(filled) <= 4 else (filled[0], filled[-1])
        legend = [Patch(color=STEPS(step / (1.2 * last)), label=f"step {step}") for step in ends]
    if hidden.any():
        legend.append(Patch(color=GREY, label="hidden"))
    if context.any():
        frame = dict(facecolor="white", edgecolor=STEPS(0), lw=2.5)
        legend.append(Patch(**frame, label="context, never predicted"))
    if (steps < 0).any():
        legend.append(Patch(facecolor=PALE, edgecolor=GREY, label="not in the sequence"))
    return legend


def framed(view: View) -> list[list[int]]:
    """Return the units to frame: all of them, or none if one is not connected in the grid."""
    parts = (connected({place(token, view.grid) for token in unit}) for unit in view.units)
    return view.units if all(len(part) == 1 for part in parts) else []


def prediction_panel(axis: Axes, grid: PatchGrid, prediction: Prediction) -> list[Artist]:
    """Draw one prediction: sources outlined, targets orange, tokens that reach it blue."""
    colours = [READ if read else PALE for read in prediction.reads.tolist()]
    for token in prediction.of_tokens:
        colours[token] = TARGET
    for token in prediction.leaks:
        colours[token] = LEAK
    cells(axis, grid, colours)
    outline(axis, grid, prediction.from_tokens, SOURCE)
    shape = dict(arrowstyle="-|>", color=INK, lw=1.6, shrinkA=0, shrinkB=0)
    shape["mutation_scale"] = min(14, 0.7 * cell_points(axis, grid))
    for start, end in arrows(prediction.from_tokens, prediction.of_tokens, grid):
        axis.annotate("", end, start, arrowprops=shape)
    same = sorted(prediction.from_tokens) == sorted(prediction.of_tokens)
    legend = [
        Patch(color=READ, label="reaches it"),
        Patch(facecolor="none", edgecolor=SOURCE, lw=2, label="source"),
    ]
    if set(prediction.of_tokens) - set(prediction.leaks):
        legend.append(Patch(color=TARGET, label="target, its own source" if same else "target"))
    if prediction.leaks:
        legend.append(Patch(color=LEAK, label="target that it sees"))
    return legend


def attention_panel(
    axis: Axes, pairs: Tensor, rows: Sequence[int] = (), cols: Sequence[int] = (), first: int = 0
) -> list[Artist]:
    """Draw an attention matrix of a view.

    Args:
        axis: The axis to draw into.
        pairs: (N, N) kinds of pairs, see :attr:`View.sequence`.
        rows: Rows to mark as sources.
        cols: Columns to mark as targets.
        first: Number of the first row and column.
    """
    n, edge = len(pairs), first - 0.5
    colours = ListedColormap([colour for colour, _ in PAIRS.values()])
    look = dict(cmap=colours, vmin=0, vmax=len(PAIRS) - 1, interpolation="none")
    axis.imshow(pairs.numpy(), extent=(edge, edge + n, edge + n, edge), **look)
    if n <= 64:
        ticks = [edge + i for i in range(1, n)]
        axis.set_xticks(ticks, [""] * len(ticks), minor=True)
        axis.set_yticks(ticks, [""] * len(ticks), minor=True)
        axis.grid(which="minor", color="white", linewidth=min(1, 16 / n))
    marked = len(rows) + len(cols) > 0
    axis.tick_params(which="both", length=0, labelsize=7, pad=8 if marked else 3)
    outside, wide = edge - 0.022 * n, max(1, 0.014 * n)  # so that one row of many stays visible
    for row in rows:
        axis.add_patch(_bar(outside, first + row - wide / 2, 0.016 * n, wide, SOURCE))
    for col in cols:
        axis.add_patch(_bar(first + col - wide / 2, outside, wide, 0.016 * n, TARGET))
    present = [kind for kind in pairs.unique().tolist() if kind != BLIND]
    names = {kind: PAIRS[kind][1] for kind in present}
    if DECODER not in present and ENCODER not in present:
        names[BOTH] = "may attend"
    legend = [Patch(color=PAIRS[kind][0], label=names[kind]) for kind in reversed(present)]
    sides = [Patch(color=SOURCE, label="sources"), Patch(color=TARGET, label="targets")]
    return legend + (sides if marked else [])


def font_size(axis: Axes, view: View) -> float | None:
    """Return the font size of the numbers in points; None if they do not fit."""
    longest = max(map(len, view.numbers))
    side = cell_points(axis, view.grid)
    size = min(12, 0.55 * side, 0.75 * side / (0.6 * longest))
    return size if size >= 3.5 else None


def _bar(x: float, y: float, width: float, height: float, colour: str) -> Rectangle:
    return Rectangle((x, y), width, height, color=colour, lw=0, clip_on=False)
