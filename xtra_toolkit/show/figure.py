"""The picture of an objective: four panels, and its numbers below."""

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xtra_toolkit.show.panels import attention_panel, order_panel, prediction_panel
from xtra_toolkit.show.prediction import Prediction
from xtra_toolkit.show.view import View


def draw(view: View, prediction: Prediction | None, title: str, notes: str) -> Figure:
    """Order and a prediction on the image above, attention in both orders below them.

    Args:
        view: what is drawn; ``prediction`` is one of its own.
        notes: lines below the panels.
    """
    below = 0.35 + 0.135 * len(notes.splitlines())  # inches
    width, height = 9.6, 10.0 + below
    figure = Figure(figsize=(width, height))
    axes = figure.subplots(2, 2).flat
    edges = dict(left=0.07, right=0.97, top=1 - 0.9 / height, bottom=(below + 0.75) / height)
    figure.subplots_adjust(**edges, wspace=0.18, hspace=0.22)
    figure.suptitle(title, y=1 - 0.25 / height, fontsize=14)
    figure.text(0.07, 0.2 / height, notes, family="monospace", fontsize=7.5, va="bottom")

    axes[0].set_title("order on the image")
    _legend(axes[0], order_panel(axes[0], view))
    marks = {False: ([], []), True: ([], [])}
    if prediction is None:
        axes[1].set_axis_off()
    else:
        axes[1].set_title(f"prediction {prediction.number} of 0 to {prediction.count - 1}")
        _legend(axes[1], prediction_panel(axes[1], view.grid, prediction))
        marks = {
            False: (prediction.sources, prediction.targets),
            True: tuple(map(view.in_raster, (prediction.from_tokens, prediction.of_tokens))),
        }
    for axis, pairs, raster in ((axes[2], view.sequence, False), (axes[3], view.raster, True)):
        axis.set_title("attention in " + ("raster order" if raster else "sequence order"), pad=14)
        axis.set(ylabel="patch" if raster else "position", xlabel="may attend to")
        _legend(axis, attention_panel(axis, pairs, *marks[raster]), below=0.11)
    return figure


def _legend(axis: Axes, key: list[Artist], below: float = 0.01) -> None:
    """In a line below the axis."""
    if key:
        axis.legend(
            handles=key,
            loc="upper center",
            bbox_to_anchor=(0.5, -below),
            ncols=len(key),
            frameon=False,
            fontsize=8,
            handlelength=1.2,
            handleheight=1.0,
            columnspacing=1.2,
        )
