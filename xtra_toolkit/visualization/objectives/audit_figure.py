"""Draw what an audit measured: the matrix of all predictions, and one prediction on the image."""

from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.visualization.objectives import text
from xtra_toolkit.visualization.objectives.grid_cells import cells
from xtra_toolkit.visualization.objectives.objective_panels import LEAK, PALE, READ, TARGET

KINDS = {
    PALE: "does not see",
    READ: "sees",
    TARGET: "is compared with",
    LEAK: "sees what it is compared with",
}


def draw(
    sees: Tensor, compared: Tensor, grid: PatchGrid | None, prediction: int, title: str
) -> Figure:
    """Draw the predictions as a matrix, and for images one of them on the grid.

    Args:
        sees: (P, N) bool, tokens that move a prediction.
        compared: (P, N) bool, tokens that a prediction is compared with.
        grid: The grid of the images; None for sequences.
        prediction: The prediction that is drawn on the grid.
        title: Text above the panels.
    """
    kinds = sees + 2 * compared
    figure = Figure(figsize=(9.6, 5.6))
    axes = figure.subplots(1, 1 if grid is None else 2, squeeze=False)[0]
    figure.subplots_adjust(left=0.07, right=0.97, top=0.82, bottom=0.14, wspace=0.18)
    figure.suptitle("\n".join(text.wrapped(title, 90)), fontsize=12)
    _matrix(axes[0], kinds)
    if grid is not None:
        axes[1].set_title(f"prediction {prediction} of 0 to {len(kinds) - 1}")
        cells(axes[1], grid, [list(KINDS)[kind] for kind in kinds[prediction].tolist()])
    present = [list(KINDS.items())[kind] for kind in kinds.unique().tolist()]
    figure.legend(
        handles=[Patch(facecolor=c, edgecolor="#d9d9d9", label=name) for c, name in present],
        loc="lower center",
        ncols=len(present),
        frameon=False,
        fontsize=9,
    )
    return figure


def _matrix(axis: Axes, kinds: Tensor) -> None:
    colours = dict(cmap=ListedColormap(list(KINDS)), vmin=0, vmax=len(KINDS) - 1)
    axis.imshow(kinds.numpy(), interpolation="none", **colours)
    axis.set(ylabel="prediction", xlabel="token of the input", title="what each prediction sees")
    rows, cols = kinds.shape
    if max(rows, cols) <= 64:
        axis.set_xticks([i - 0.5 for i in range(1, cols)], [""] * (cols - 1), minor=True)
        axis.set_yticks([i - 0.5 for i in range(1, rows)], [""] * (rows - 1), minor=True)
        axis.grid(which="minor", color="white", linewidth=min(1, 16 / cols))
    axis.tick_params(which="both", length=0, labelsize=7)
