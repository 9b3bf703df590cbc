"""Draw an objective: four panels, with the certificate below them."""

import re
import textwrap

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xtra_toolkit.visualization.objectives import text
from xtra_toolkit.visualization.objectives.objective_panels import (
    attention_panel,
    framed,
    order_panel,
    prediction_panel,
)
from xtra_toolkit.visualization.objectives.prediction import Prediction
from xtra_toolkit.visualization.objectives.view import View


def draw(view: View, prediction: Prediction | None, title: str, caption: str) -> Figure:
    """Draw the order and one prediction on the image, and below them attention in both orders.

    Args:
        view: The mask to draw.
        prediction: A prediction under this mask. None leaves its panel empty.
        title: Text above the panels; the grid is added below it.
        caption: Text below the panels.

    Returns:
        The figure.
    """
    figure = _sheet(title, f"on {view.grid}", caption)
    axes = figure.axes
    axes[0].set_title("order on the image" + ", units framed" * bool(framed(view)))
    _legend(axes[0], order_panel(axes[0], view))
    marks = {False: ([], []), True: ([], [])}
    if prediction is None:
        axes[1].set_axis_off()
    else:
        axes[1].set_title(f"prediction {prediction.number} of 0 to {prediction.count - 1}")
        _legend(axes[1], prediction_panel(axes[1], view.grid, prediction))
        marks = {
            False: (prediction.source_positions, prediction.target_positions),
            True: tuple(map(view.in_raster, (prediction.from_tokens, prediction.of_tokens))),
        }
    for axis, pairs, raster in ((axes[2], view.sequence, False), (axes[3], view.raster, True)):
        axis.set_title("attention in " + ("raster order" if raster else "sequence order"), pad=14)
        first = -view.grid.extra if raster else 0  # tokens without pixels come before patch 0
        kind = "patch" + "; below 0 without pixels" * bool(first) if raster else "position"
        axis.set(ylabel=kind, xlabel="may attend to")
        _legend(axis, attention_panel(axis, pairs, *marks[raster], first), below=0.11)
    return figure


def _sheet(title: str, below_it: str, caption: str) -> Figure:
    """Make a figure of four empty panels with the title above and the caption below."""
    titles = text.wrapped(title.replace("× ", "×\N{NO-BREAK SPACE}"), 80)
    captions = clauses(caption, 125)
    above, below = 0.7 + 0.25 * len(titles), 0.95 + 0.17 * len(captions)  # inches
    height = 8.45 + above + below
    figure = Figure(figsize=(9.6, height))
    figure.subplots(2, 2)
    edges = dict(left=0.07, right=0.97, top=1 - above / height, bottom=below / height)
    figure.subplots_adjust(**edges, wspace=0.18, hspace=0.22)
    figure.suptitle("\n".join(titles), y=1 - 0.12 / height, fontsize=13)
    middle = dict(ha="center", va="bottom", fontsize=9)
    figure.text(0.5, 1 - (above - 0.41) / height, below_it, **middle)
    figure.text(0.5, 0.12 / height, "\n".join(captions), **middle)
    return figure


def clauses(sentence: str, width: int) -> list[str]:
    """Wrap to lines of at most ``width`` characters, after a semicolon where possible."""
    lines: list[str] = []
    for clause in re.split(r"(?<=;) ", sentence):
        for part in textwrap.wrap(clause, width):
            if lines and len(lines[-1]) + len(part) < width:
                lines[-1] += f" {part}"
            else:
                lines.append(part)
    return lines


def _legend(axis: Axes, handles: list[Artist], below: float = 0.01) -> None:
    """Draw the legend in one line below the axis."""
    if handles:
        axis.legend(
            handles=handles,
            loc="upper center",
            bbox_to_anchor=(0.5, -below),
            ncols=len(handles),
            frameon=False,
            fontsize=8,
            handlelength=1.2,
            handleheight=1.0,
            columnspacing=1.2,
        )
