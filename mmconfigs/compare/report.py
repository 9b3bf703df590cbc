"""Table and plot of ``make compare``: python report.py FOLDER, which holds results.csv.

An interval runs from the lowest to the highest of the seeds, widened on both sides by the 95 %
half-width of an accuracy on 10,000 images. Where two overlap, the difference is within noise.
"""

import csv
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

TESTED = 10_000
PROBES = ("linear", "attentive")
Interval = tuple[float, float, float]


def interval(accuracies: list[float]) -> Interval:
    """Mean, low and high, in per cent."""
    mean = sum(accuracies) / len(accuracies)
    half = 196 * (mean / 100 * (1 - mean / 100) / TESTED) ** 0.5
    return mean, min(accuracies) - half, max(accuracies) + half


def groups(folder: Path) -> dict[tuple, dict]:
    """By (objective, attention, rate, images): the rows of all seeds, and an interval a probe."""
    found: dict[tuple, dict] = {}
    with open(folder / "results.csv", newline="") as file:
        for row in csv.DictReader(file):
            key = row["objective"], row["attention"], row["rate"], row["images"]
            found.setdefault(key, dict(rows=[]))["rows"].append(row)
    for group in found.values():
        for probe in PROBES:
            accuracies = [float(row[probe]) for row in group["rows"] if row[probe]]
            group[probe] = interval(accuracies) if accuracies else None
    return found


def verdict(one: Interval | None, other: Interval | None) -> str:
    """How a group stands to XTRA."""
    if one is None or other is None or one is other:
        return ""
    if one[1] <= other[2] and other[1] <= one[2]:
        return "within noise of XTRA"
    return "above XTRA" if one[0] > other[0] else "below XTRA"


def table(found: dict[tuple, dict]) -> str:
    """Markdown."""
    xtra = [group for key, group in found.items() if key[:2] == ("xtra", "own mask")]
    own = max(xtra, key=lambda group: len(group["rows"]), default=None)  # not the sweep's
    head = "| objective | attention when probed | seeds | rate | images | epochs | minutes a run |"
    lines = [f"{head} linear | | attentive | |", "|" + "---|" * 11]
    for (objective, attention, rate, images), group in found.items():
        first, count = group["rows"][0], len(group["rows"])
        minutes = sum(float(row["seconds"]) for row in group["rows"]) / count / 60
        cells = [objective, attention, count, rate or "", images if images != "0" else ""]
        cells += [f"{float(first['epochs']):.2g}", f"{minutes:.1f}"] if images != "0" else ["", ""]
        for probe in PROBES:
            value = group[probe]
            text = f"{value[0]:.1f} ({value[1]:.1f} to {value[2]:.1f})" if value else ""
            cells += [text, verdict(value, own and own[probe])]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def label(objective: str, attention: str, rate: str, images: str) -> str:
    """'xtra, own mask, lr 0.002, 30,016 images'; nothing of what was not trained."""
    seen = f"{int(images):,} images" if int(images) else ""
    return ", ".join(filter(None, (objective, attention, rate and f"lr {rate}", seen)))


def plot(found: dict[tuple, dict], target: Path) -> None:
    """Intervals side by side."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 0.45 * len(found) + 1.2), sharey=True)
    names = [label(*key) for key in found]
    for axis, probe in zip(axes, PROBES, strict=True):
        for y, group in enumerate(found.values()):
            if group[probe]:
                mean, low, high = group[probe]
                bar = dict(color="tab:blue", linewidth=4, alpha=0.5, solid_capstyle="butt")
                axis.plot([low, high], [y, y], **bar)
                axis.plot([mean], [y], "o", color="tab:blue")
        axis.set_title(f"{probe} probe, accuracy in %")
        axis.grid(axis="x", alpha=0.4)
    axes[0].set_yticks(range(len(names)), names)
    axes[0].invert_yaxis()
    figure.tight_layout()
    figure.savefig(target, dpi=130)


def main() -> None:
    """Write beside results.csv, and print the table."""
    folder = Path(sys.argv[1])
    found = groups(folder)
    (folder / "table.md").write_text(table(found))
    plot(found, folder / "plot.png")
    print(table(found))


if __name__ == "__main__":
    main()
