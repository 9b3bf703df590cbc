"""A plot of the parts of a loss over training steps."""

import math
from itertools import groupby

import matplotlib
from matplotlib.figure import Figure

TITLES = {
    "loss_step": "by step of the sequence (mean loss of its links)",
    "loss_row": "by row of the grid (mean loss of its links)",
    "loss_band": "by spatial frequency, cycles per pixel (sum: mean squared error)",
}


def plot(steps: list[int], values: dict[str, list[float]]) -> Figure:
    """Draw a panel for each kind of part, with one curve for each part.

    Dark curves are early steps, upper rows or low frequencies.

    Args:
        steps: Optimizer steps at which the parts were measured.
        values: Values of each part by its name, ``KIND/NUMBER``. A value is NaN at a step where
            the part had no prediction.

    Returns:
        The figure.
    """
    names = [name for name, line in values.items() if not all(map(math.isnan, line))]
    kinds = [(kind, list(names)) for kind, names in groupby(names, lambda n: n.split("/")[0])]
    figure = Figure(figsize=(6.5 * len(kinds), 4.5), layout="constrained")
    axes = figure.subplots(1, len(kinds), squeeze=False)[0]
    for ax, (kind, names) in zip(axes, kinds, strict=True):
        colours = matplotlib.colormaps["viridis"].resampled(len(names) + 1)
        for i, name in enumerate(names):
            line = values[name]
            ax.plot(steps, line, color=colours(i), label=_label(name), marker="." * (len(line) < 9))
        ax.set(title=TITLES[kind], xlabel="optimizer step", yscale="log")
        ax.title.set_fontsize("medium")
        ax.grid(alpha=0.3, which="both")
        ax.legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _label(name: str) -> str:
    kind, number = name.split("/")
    if kind != "loss_band":
        return number
    low = int(number)
    return f"above {low}/16" if low == 7 else f"{low}/16 to {low + 1}/16"
