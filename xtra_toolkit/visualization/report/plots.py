"""Draw plots as SVG whose colours are set by the page, for its light and its dark style.

Matplotlib draws in placeholder colours, which are replaced by CSS variables. Text stays text, in
the font of the page. Elements of run 2 have the class ``run-2``, so that the page can hide them.
"""

import io
import re
from collections.abc import Callable
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

COLOURS = 8  # --series-0 to --series-7 of the page
SHADES = 16  # for curves that have an order
INK, MUTED, RULE = "#010101", "#020202", "#030303"
SERIES = [f"#0400{n:02x}" for n in range(COLOURS)]
RAMP = [f"#0500{n:02x}" for n in range(SHADES)]
PLACEHOLDERS = {INK: "var(--ink)", MUTED: "var(--muted)", RULE: "var(--rule)"}
PLACEHOLDERS |= {colour: f"var(--series-{n})" for n, colour in enumerate(SERIES)}
PLACEHOLDERS |= {
    colour: f"color-mix(in oklch, var(--last) {100 * n / (SHADES - 1):.0f}%, var(--first))"
    for n, colour in enumerate(RAMP)
}
DASHES = ("-", "--", ":", "-.")  # the next one for every eight runs
MARKERS = "os^Dv<>p"
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "xtra report",
    "text.parse_math": False,
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), MUTED),
    **dict.fromkeys(("axes.edgecolor", "grid.color"), RULE),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "axes.spines.left"), False),
    **dict.fromkeys(("axes.grid", "axes.axisbelow"), True),
    **dict.fromkeys(("xtick.major.size", "ytick.major.size", "ytick.minor.size"), 0),
    "grid.linewidth": 0.6,
    "font.size": 9,
    "lines.linewidth": 1.5,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
}
RAW, SMOOTH = 600, 300  # most points drawn of a raw and of a smoothed curve
WINDOW = 1 / 20  # window of the smoothing, as a share of the curve
FEW = 30  # curves of up to this many points have markers and are not smoothed


@dataclass(frozen=True)
class Line:
    """A curve of a run, with points (x, y)."""

    run: int
    x: np.ndarray
    y: np.ndarray


def svg(paint: Callable[[Axes], None], xlabel: str, ylabel: str, height: float = 2.5) -> str:
    """Return an SVG drawing whose axes the function ``paint`` draws."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.4, height), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        paint(axes)
        axes.set_xlabel(xlabel)
        # a title is easier to read than a label along the axis
        axes.set_title(ylabel, loc="left", fontsize=10, color=INK)
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, dpi=144, metadata=nothing)
    return themed(buffer.getvalue())


def themed(text: str) -> str:
    """Return only the ``svg`` element, with colours as CSS variables and runs as classes."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)
    text = re.sub(r"font-family:[^;\"]*;?|font: ([\d.]+px)[^;\"]*", _font, text)
    text = re.sub(r'<g id="(run-\d+(?: raw)?)">', r'<g class="\1">', text)
    text = re.sub(r' id="[A-Za-z.]\w*(\.\w+)?_\d+"', "", text)  # not unique in a page
    return re.sub("|".join(PLACEHOLDERS), lambda found: PLACEHOLDERS[found[0]], text)


def _font(found: re.Match) -> str:
    return f"font-size: {found[1]}" if found[1] else ""


def curves(
    lines: list[Line], xlabel: str, ylabel: str, smooth: bool = False, log: bool = False
) -> str:
    """Draw curves over iterations; raw values are drawn behind smoothed curves."""

    def paint(axes: Axes) -> None:
        for line in lines:
            _curve(axes, line, smooth and len(line.x) > FEW)
        values = np.concatenate([line.y for line in lines])
        values = values[np.isfinite(values)]
        if log and len(values) and values.min() > 0 and values.max() > 4 * values.min():
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:.3g}")
            axes.yaxis.set_minor_formatter("")
        iterations(axes)

    return svg(paint, xlabel, ylabel)


def _curve(axes: Axes, line: Line, smooth: bool) -> None:
    style = dict(color=SERIES[line.run % COLOURS])
    dash = DASHES[line.run // COLOURS % len(DASHES)]
    if smooth:
        axes.plot(*envelope(line.x, line.y), lw=0.7, alpha=0.35, gid=f"run-{line.run} raw", **style)
        kept = np.unique(np.linspace(0, len(line.x) - 1, SMOOTH).round().astype(int))
        y = smoothed(line.y)[kept]
        axes.plot(line.x[kept], y, dash, gid=f"run-{line.run}", **style)
        return
    marker = dict(marker="o", ms=3) if len(line.x) <= FEW else {}
    axes.plot(*envelope(line.x, line.y), dash, gid=f"run-{line.run}", **marker, **style)


def iterations(axes: Axes) -> None:
    """Set few ticks at whole numbers on the x axis."""
    axes.xaxis.set_major_formatter(FuncFormatter(short))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))


def short(value: float, _: object = None) -> str:
    """Format a tick in short, 120000 as '120k'."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def smoothed(y: np.ndarray) -> np.ndarray:
    """Return the mean of the finite values in a centred window around each value."""
    half = max(1, round(len(y) * WINDOW / 2))
    finite = np.isfinite(y)
    sums = np.concatenate([[0], np.where(finite, y, 0).cumsum()])
    counts = np.concatenate([[0], finite.cumsum()])
    index = np.arange(len(y))
    # the window is symmetric also near the ends, so that the curve does not lag there
    reach = np.minimum(half, np.minimum(index, len(y) - 1 - index))
    low, high = index - reach, index + reach + 1
    count = counts[high] - counts[low]
    return np.where(count > 0, (sums[high] - sums[low]) / np.maximum(count, 1), np.nan)


def envelope(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Reduce a curve to at most ``RAW`` points: the least and the greatest of each stretch."""
    if len(x) <= RAW:
        return x, y
    kept = set()
    for stretch in np.array_split(np.arange(len(x)), RAW // 2):
        values = y[stretch]
        if np.isfinite(values).any():
            kept |= {stretch[np.nanargmin(values)], stretch[np.nanargmax(values)]}
        else:
            kept.add(stretch[0])
    index = sorted(kept)
    return x[index], y[index]
