"""Panels side by side, an image a row."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from xtra_toolkit.complete.panels import Panel

INCHES, DPI = 1.8, 200
NOTHING = dict(facecolor="#f3f5f8", edgecolor="#c9d1dc", hatch="////", linewidth=0)
BORDER = dict(colors="#e8710a", linewidths=1)


def draw(panels: list[Panel], columns: list[np.ndarray], path: Path) -> None:
    """Write panels to a file.

    Args:
        panels: their captions are taken, and whether a border follows what the first one shows.
        columns: for each panel its images, (B, height, width, 4) uint8, RGBA; what is transparent
            is hatched.
        path: its ending says the format.
    """
    rows, height, width = columns[0].shape[:3]
    lines = 1 + any(panel.note for panel in panels)
    size = INCHES * len(columns), INCHES * height / width * rows + 0.16 * lines + 0.12
    figure = Figure(size, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03, wspace=0, hspace=0)
    axes = figure.subplots(rows, len(columns), squeeze=False)
    for panel, images, column in zip(panels, columns, axes.T, strict=True):
        column[0].set_title(f"{panel.name}\n{panel.note}" if lines > 1 else panel.name, fontsize=8)
        for image, first, ax in zip(images, columns[0], column, strict=True):
            _panel(ax, image)
            if panel.bordered:
                ax.add_collection(LineCollection(edges(first[..., 3] > 0), **BORDER))
    figure.savefig(path, dpi=DPI)


def _panel(ax: Axes, image: np.ndarray) -> None:
    ax.imshow(image, interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    ax.patch.set(**NOTHING)
    for spine in ax.spines.values():
        spine.set_visible(False)


def edges(region: np.ndarray) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """Sides of pixels, as (x, y) pairs, between a region (height, width) bool and what is not."""
    across = np.argwhere(region[1:] != region[:-1])  # (row above, column)
    along = np.argwhere(region[:, 1:] != region[:, :-1])  # (row, column to the left)
    return [((x - 0.5, y + 0.5), (x + 0.5, y + 0.5)) for y, x in across] + [
        ((x + 0.5, y - 0.5), (x + 0.5, y + 0.5)) for y, x in along
    ]
