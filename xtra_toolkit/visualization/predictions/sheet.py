"""Draw columns of images side by side, one row for each image."""

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

INCHES = 1.8  # width of a column
DPI, SCREEN = 200, 150  # resolution of a file, and of an array
NOTHING = dict(facecolor="#f3f5f8", edgecolor="#c9d1dc", hatch="////", linewidth=0)
BORDER = dict(colors="#e8710a", linewidths=1)


@dataclass
class ImageColumn:
    """A column of images.

    Args:
        name: Name of the column.
        pixels: (B, height, width, 4) uint8 RGBA; transparent pixels are hatched.
        note: Lines below the name, which say how the images were made.
        bordered: Whether to draw a line around the opaque pixels of the first column.
    """

    name: str
    pixels: np.ndarray
    note: str = ""
    bordered: bool = False


def sheet(columns: list[ImageColumn]) -> Figure:
    """Make a figure of columns side by side, with captions above them."""
    rows = len(columns[0].pixels)
    height, width = columns[0].pixels.shape[1:3]
    captions = [f"{column.name}\n{column.note}".strip() for column in columns]
    lines = 1 + max(caption.count("\n") for caption in captions)
    size = INCHES * len(columns), INCHES * height / width * rows + 0.16 * lines + 0.12
    figure = Figure(size, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03, wspace=0, hspace=0)
    axes = figure.subplots(rows, len(columns), squeeze=False)
    for column, caption, axis in zip(columns, captions, axes.T, strict=True):
        axis[0].set_title(caption + "\n" * (lines - 1 - caption.count("\n")), fontsize=8)
        for image, first, ax in zip(column.pixels, columns[0].pixels, axis, strict=True):
            _panel(ax, image)
            if column.bordered:
                ax.add_collection(LineCollection(edges(first[..., 3] > 0), **BORDER))
    return figure


def rgb(figure: Figure) -> np.ndarray:
    """Render a figure at screen resolution as (height, width, 3) uint8 RGB."""
    figure.set_dpi(SCREEN)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3].copy()


def _panel(ax: Axes, image: np.ndarray) -> None:
    ax.imshow(image, interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    ax.patch.set(**NOTHING)
    for spine in ax.spines.values():
        spine.set_visible(False)


def edges(region: np.ndarray) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """Return the boundary of a region (height, width) bool: sides of pixels as (x, y) pairs."""
    across = np.argwhere(region[1:] != region[:-1])  # (row above, column)
    along = np.argwhere(region[:, 1:] != region[:, :-1])  # (row, column to the left)
    return [((x - 0.5, y + 0.5), (x + 0.5, y + 0.5)) for y, x in across] + [
        ((x + 0.5, y - 0.5), (x + 0.5, y + 0.5)) for y, x in along
    ]
