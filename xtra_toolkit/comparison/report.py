"""Draw table, sentences and plots of a comparison from its results alone."""

from pathlib import Path

import matplotlib

from xtra_toolkit.comparison.blocks import block_sentences, plot_blocks
from xtra_toolkit.comparison.checkpoints import LABELS, TESTED, correlation_sentences
from xtra_toolkit.comparison.plan import epochs_for
from xtra_toolkit.comparison.results import NOTE, Results, varied_row

matplotlib.use("Agg")


def write_report(results: Results, stem: Path) -> None:
    """Write ``STEM.md``, ``STEM.png`` and, with at least two block sizes, ``STEM_blocks.png``."""
    plot(results, stem.with_suffix(".png"))
    blocks = stem.with_name(f"{stem.name}_blocks.png")
    pictures = [f"![Accuracy of each row, with its interval]({stem.name}.png)"]
    if plot_blocks(results, blocks):
        pictures.append(f"![Accuracy over the size of a block, with intervals]({blocks.name})")
    stem.with_suffix(".md").write_text(page(results, f"{stem.name}.json", pictures))


def page(results: Results, source: str, pictures: list[str]) -> str:
    """Return the page in Markdown.

    Args:
        results: Results, complete or not. Cells without a result are empty.
        source: File name of the results.
        pictures: The plots, as Markdown.
    """
    state, plan = results.state, results.state["plan"]
    finished = [run for run in state["runs"] if run["name"] in plan["images"] and "linear" in run]
    planned = plan["seeds"] * len(plan["images"])
    lines = [
        f"# {', '.join(name for name in plan['images'] if not varied_row(name))} on {plan['data']}",
        "",
        f"`xtra compare --redraw {source}` writes this page and its plots from {source}, without "
        "training. Edit that file or the command, not the page. The results come from:",
        "",
        "```",
        state["command"],
        "```",
        "",
        f"{state['machine']}; torch {state['torch']}; commit {results.commits}; {state['date']}. "
        f"{len(finished)} of {planned} pretraining runs are finished"
        + ("." if len(finished) == planned else ": this is a partial result.")
        + f" Probes learn from {plan['labels']:,} labelled images under the encoder's own mask; "
        "their settings are chosen on a fifth of these. Minutes are the wall time of one "
        "pretraining run, beside whatever else the machine did.",
        *_costs(results),
        *_tuning(plan),
        "",
        NOTE.format(tested=results.tested, images=results.tested_images),
        "",
        results.table(),
        "",
        *(f"- {line}" for line in results.sentences() + block_sentences(results)),
        "",
        *(line for picture in pictures for line in (picture, "")),
        *_correlations(results),
    ]
    return "\n".join(lines)


def _correlations(results: Results) -> list[str]:
    """Return a section on loss and accuracy, if runs kept several checkpoints."""
    sentences = correlation_sentences(results)
    if not sentences:
        return []
    return [
        "## Loss and accuracy",
        "",
        f"Spearman's rank correlation of the validation loss and a linear probe ({LABELS:,} "
        f"labels, {min(TESTED, results.tested):,} {results.tested_images}) over the checkpoints of "
        "all runs of a config. The learning rate falls between them, so that both tend to improve "
        "with time.",
        "",
        *(f"- {line}" for line in sentences),
        "",
    ]


def _costs(results: Results) -> list[str]:
    """Return a paragraph with the FLOPs of each objective, if they were counted."""
    costs = results.state.get("mflops")
    if not costs:
        return []
    listed = ", ".join(
        f"{name} {cost:,}" for name, cost in costs.items() if cost != costs.get(varied_row(name))
    )
    line = (
        f"MFLOP of one image forward, counted: {listed}. TFLOP are those of one pretraining run; "
        "the backward pass is counted as two forward passes."
    )
    if targets := results.state.get("target_mflops"):
        listed = ", ".join(f"{name} {cost:,}" for name, cost in targets.items())
        line += f" The values of a target add a forward pass alone: {listed}."
    return ["", line]


def _tuning(plan: dict) -> list[str]:
    """Return a paragraph on fine-tuning, if it was planned."""
    if not plan["tune_labels"]:
        return []
    epochs = [
        f"{epochs_for(n, plan['tune_labels'], plan['tune_epochs'])} epochs with {n:,} labels"
        for n in plan["tune_labels"]
    ]
    return [
        "",
        f"Fine-tuning takes {', '.join(epochs)}, at a peak rate of {plan['tune_rate']:g}; "
        "`from scratch` starts from random weights, xavier-uniform.",
    ]


def plot(results: Results, target: Path) -> None:
    """Draw the intervals, with a panel for each protocol and a line for each row."""
    import matplotlib.pyplot as plt

    names, panels = results.names(), results.protocols()
    size = (3.2 * max(len(panels), 1) + 1.5, 0.4 * len(names) + 1.3)
    figure, axes = plt.subplots(1, max(len(panels), 1), figsize=size, sharey=True, squeeze=False)
    for axis, (title, intervals) in zip(axes[0], panels, strict=False):
        for y, name in enumerate(names):
            if value := intervals.get(name):
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
