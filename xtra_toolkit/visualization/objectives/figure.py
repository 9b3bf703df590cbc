"""Draw objectives: panels of one config, or several configs side by side."""

from collections.abc import Sequence

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
from xtra_toolkit.visualization.objectives.summary import PANELS, Summary
from xtra_toolkit.visualization.objectives.view import View

WIDE, NARROW = 4.8, 3.6  # inches of a panel, up to two side by side and more
ABOVE, BELOW, LEFT, RIGHT = 0.4, 0.85, 0.6, 0.25  # inches around the axes of a panel


def draw(summaries: Sequence[Summary], panels: Sequence[str] = PANELS) -> Figure:
    """Draw one config as a sheet of panels, or several as columns with a row for each panel.

    Args:
        summaries: The configs. The certificate, or the reason of a refusal, is drawn below the
            panels if there is one config only.
        panels: Names in ``PANELS``: the order of the tokens, one prediction, and who may attend
            to whom, in the order of the sequence and of the image. Sources and targets are
            marked there if the prediction is drawn too.

    Returns:
        The figure.
    """
    several, count = len(summaries) > 1, len(panels)
    columns = len(summaries) if several else 2 if count == 4 else count
    rows = count if several else -(-count // columns)
    side = NARROW if columns > 2 else WIDE
    width, height = columns * side, side - LEFT - RIGHT + ABOVE + BELOW
    heads = [head(summary, side if several else width) for summary in summaries]
    caption = [] if several else text.wrapped(summaries[0].notes[0][1], round(13 * width))
    above = 0.2 + max(0.25 * len(titles) + 0.17 * len(lines) for titles, lines in heads)
    total = above + rows * height + 0.17 * len(caption) + 0.1
    figure = Figure(figsize=(width, total))
    for i, (titles, lines) in enumerate(heads):
        middle = (i + 0.5) / len(heads)
        look = dict(ha="center", va="top")
        figure.text(middle, 1 - 0.12 / total, "\n".join(titles), fontsize=13, **look)
        below = 1 - (0.15 + 0.25 * len(titles)) / total
        figure.text(middle, below, "\n".join(lines), fontsize=8.5, **look)
    figure.text(0.5, 0.08 / total, "\n".join(caption), fontsize=9, ha="center", va="bottom")
    for i in range(len(summaries) * count):
        row, column = divmod(i, columns)
        summary = summaries[column if several else 0]
        left, top = column * side + LEFT, above + row * height + ABOVE
        prediction = summary.prediction if "prediction" in panels else None
        _panel(figure, (left, top), side, panels[row if several else i], summary.view, prediction)
    return figure


def single(summary: Summary, panel: str) -> Figure:
    """Draw one panel alone, with its title."""
    figure = Figure(figsize=(NARROW, NARROW - LEFT - RIGHT + ABOVE + BELOW))
    _panel(figure, (LEFT, ABOVE), NARROW, panel, summary.view, summary.prediction)
    return figure


def head(summary: Summary, width: float) -> tuple[list[str], list[str]]:
    """Return the lines above a config: its title, then its grid and which draw is shown.

    Args:
        summary: The config.
        width: Width for the lines in inches.
    """
    title, fit = summary.title.replace("× ", "×\N{NO-BREAK SPACE}"), round(14.5 * width)
    titles, lines = [summary.name], text.wrapped(title, fit)
    if not summary.name:
        titles, lines = text.wrapped(title, round(8.3 * width)), []
    drawn = dict(summary.notes).get("draw", "")
    return titles, lines + text.wrapped(f"on {summary.view.grid}", fit) + text.wrapped(drawn, fit)


def _panel(
    figure: Figure, corner: tuple[float, float], side: float, name: str, *shown: object
) -> None:
    """Add a panel; its axes have their upper left corner (x, y) inches from that of the page."""
    width, height = figure.get_size_inches()
    inner, (x, y) = side - LEFT - RIGHT, corner
    box = (x / width, 1 - (y + inner) / height, inner / width, inner / height)
    paint(figure.add_axes(box), name, *shown)


def paint(axis: Axes, name: str, view: View, prediction: Prediction | None) -> None:
    """Paint the panel of a name into an axis; without a prediction its panel is left empty."""
    if name == "order":
        title = "order on the image" + ", units framed" * bool(framed(view))
        legend = order_panel(axis, view)
    elif name == "prediction":
        if prediction is None:
            return axis.set_axis_off()
        title = f"prediction {prediction.number} of 0 to {prediction.count - 1}"
        legend = prediction_panel(axis, view.grid, prediction)
    else:
        title, legend = _attention(axis, name == "raster", view, prediction)
    matrix = name in ("attention", "raster")
    axis.set_title(title, fontsize=11, pad=14 if matrix else 6)
    inches = axis.get_position().width * axis.figure.get_figwidth()
    long = sum(len(entry.get_label()) + 6 for entry in legend) > 17.6 * inches
    if legend:
        axis.legend(
            handles=legend,
            loc="upper center",
            bbox_to_anchor=(0.5, -(0.42 if matrix else 0.03) / inches),
            ncols=-(-len(legend) // 2) if long else len(legend),
            frameon=False,
            fontsize=8,
            handlelength=1.2,
            handleheight=1.0,
            columnspacing=1.2,
            labelspacing=0.3,
        )
    return None


def _attention(
    axis: Axes, raster: bool, view: View, prediction: Prediction | None
) -> tuple[str, list]:
    """Paint an attention matrix with the marks of a prediction; return its title and legend."""
    marks: tuple = ([], [])
    if prediction is not None and raster:
        marks = tuple(map(view.in_raster, (prediction.from_tokens, prediction.of_tokens)))
    elif prediction is not None:
        marks = prediction.source_positions, prediction.target_positions
    first = -view.grid.extra if raster else 0  # tokens without pixels come before patch 0
    legend = attention_panel(axis, view.raster if raster else view.sequence, *marks, first)
    kind = "patch" + "; below 0 without pixels" * bool(first) if raster else "position"
    axis.set_xlabel("may attend to", fontsize=9, labelpad=2)
    axis.set_ylabel(kind, fontsize=9, labelpad=2)
    visible = view.mask.visible_or_all()
    first_hidden = int(visible.long().argmin())
    if not raster and first_hidden > 0 and not visible[first_hidden:].any():
        _name_rows(axis, first_hidden, len(visible))
    return f"attention in {'raster' if raster else 'sequence'} order", legend


def _name_rows(axis: Axes, visible: int, count: int) -> None:
    """Write beside a matrix which positions are visible and which hidden."""
    axis.set_xticks([0, visible, count - 1])
    axis.set_yticks([0, visible, count - 1])
    for name, start, stop in (("visible", 0, visible), ("hidden", visible, count)):
        place = count + 0.01 * count, (start + stop) / 2 - 0.5
        axis.text(*place, f"{stop - start} {name}", rotation=270, va="center", size=8)
