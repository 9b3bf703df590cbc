"""Table, sentences and plot of a comparison, drawn from its results alone."""

from pathlib import Path

import matplotlib

from xtra_toolkit.comparison.results import NOTE, PROBES, Interval, Results

matplotlib.use("Agg")

Column = tuple[str, dict[str, Interval | None]]


def write_report(results: Results, stem: Path) -> None:
    """Write ``STEM.md`` and ``STEM.png``."""
    plot(results, stem.with_suffix(".png"))
    stem.with_suffix(".md").write_text(page(results, f"{stem.name}.png"))


def page(results: Results, picture: str) -> str:
    """Return the page in Markdown.

    Args:
        results: Finished or not; what is missing is left empty.
        picture: The plot's file, as the page names it.
    """
    state, plan = results.state, results.state["plan"]
    done = [run for run in state["runs"] if run["name"] in plan["images"] and "linear" in run]
    tuned = (
        f"Fine-tuning sees each of its labelled images {plan['tune_epochs']} times, at a peak rate "
        f"of {plan['tune_rate']:g}; `from scratch` starts from random weights."
    )
    lines = [
        f"# {', '.join(plan['images'])} on {plan['data']}",
        "",
        "This page is written by the command; edit its JSON file or the command, not the page.",
        "",
        "```",
        state["command"],
        "```",
        "",
        f"{state['machine']}; torch {state['torch']}; commit {state['commit']}; {state['date']}. "
        f"{len(done)} of {plan['seeds'] * len(plan['images'])} pretraining runs are finished. "
        f"Probes learn from {plan['labels']:,} labelled images under the encoder's own mask; their "
        "settings are chosen on a fifth of these. Minutes are wall time of one pretraining run, "
        "beside whatever else the machine did. " + tuned * bool(plan["tune_labels"]),
        "",
        NOTE.format(tested=results.tested),
        "",
        results.table(),
        "",
        *(f"- {line}" for line in results.sentences()),
        "",
        f"![Accuracy of each row, with its interval]({picture})",
        "",
    ]
    return "\n".join(lines)


def columns(results: Results) -> list[Column]:
    """Return a title and an interval for each row, for each protocol that has any result."""
    names = results.names()
    found = [
        (f"{label} probe" if probe != "nearest" else label, probe)
        for probe, label in PROBES.items()
    ]
    made = [(title, {n: results.probe(n, probe) for n in names}) for title, probe in found]
    made += [
        (f"fine-tuned, {labels:,} labels", {n: results.tuned(n, labels) for n in names})
        for labels in results.tune_labels()
    ]
    return [(title, cells) for title, cells in made if any(cells.values())]


def plot(results: Results, target: Path) -> None:
    """Draw the intervals side by side, a panel for each protocol and a line for each row."""
    import matplotlib.pyplot as plt

    names, panels = results.names(), columns(results)
    size = (3.2 * max(len(panels), 1) + 1.5, 0.4 * len(names) + 1.3)
    figure, axes = plt.subplots(1, max(len(panels), 1), figsize=size, sharey=True, squeeze=False)
    for axis, (title, cells) in zip(axes[0], panels, strict=False):
        for y, name in enumerate(names):
            if value := cells[name]:
                colour = "tab:blue" if name in results.state["plan"]["images"] else "tab:gray"
                bar = dict(color=colour, linewidth=4, alpha=0.5, solid_capstyle="butt")
                axis.plot([value.low, value.high], [y, y], **bar)
                axis.plot([value.mean], [y], "o", color=colour)
        axis.set_title(title)
        axis.set_xlabel("accuracy in %")
        axis.grid(axis="x", alpha=0.4)
    axes[0, 0].set_yticks(range(len(names)), names)
    axes[0, 0].invert_yaxis()
    figure.tight_layout()
    figure.savefig(target, dpi=130)
    plt.close(figure)
