"""Compare token-causal with block-causal masks: accuracy over the side of a block."""

from pathlib import Path

from mmengine.config import Config

from xtra_toolkit.comparison.results import Interval, Results

TOKEN_BY_TOKEN, BLOCK_BY_BLOCK = "xtra_toolkit.TokenCausal", "xtra_toolkit.BlockCausal"


def block_size(config: Config) -> int | None:
    """Return the tokens along each side of a block: 1 if a mask is token-causal, else None.

    Masks without blocks, and blocks that are not square, have no place on this axis.
    """
    mask = config.model.mask
    if mask.type == TOKEN_BY_TOKEN:
        return 1
    size = mask.get("block_size") if mask.type == BLOCK_BY_BLOCK else None
    return size if isinstance(size, int) else None


def block_names(results: Results) -> dict[int, str]:
    """Return the names of the objectives that have a linear probe, by rising block size.

    Of several with the same block size, this is the first one.
    """
    sizes = results.state.get("block_sizes", {})
    found = {}
    for name, size in sizes.items():
        if results.probe(name, "linear"):
            found.setdefault(size, name)
    return dict(sorted(found.items()))


def block_sentences(results: Results) -> list[str]:
    """Compare each block size with single tokens."""
    names = block_names(results)
    if 1 not in names:
        return []
    lines = []
    for size, name in names.items():
        for title, values in _protocols(results, names):
            own, single = values.get(size), values.get(1)
            if size > 1 and own and single:
                lines.append(
                    f"{name}, blocks of {size}×{size} tokens, {title}: {own}; "
                    f"{own.against(single)} single tokens, {single} ({names[1]})."
                )
    return lines


def plot_blocks(results: Results, target: Path) -> bool:
    """Draw the accuracy over the block size, a panel for each protocol.

    Returns:
        False, and nothing is drawn, if there are fewer than two block sizes.
    """
    import matplotlib.pyplot as plt

    names = block_names(results)
    if len(names) < 2:
        return False
    panels = _protocols(results, names)
    figure, axes = plt.subplots(1, len(panels), figsize=(3 * len(panels), 2.8), squeeze=False)
    for axis, (title, values) in zip(axes[0], panels, strict=True):
        sizes, means = list(values), [value.mean for value in values.values()]
        lower = [value.mean - value.low for value in values.values()]
        upper = [value.high - value.mean for value in values.values()]
        axis.errorbar(sizes, means, (lower, upper), fmt="o-", capsize=4)
        axis.set_xscale("log", base=2)
        axis.set_xticks(list(names), [f"{size}×{size}" for size in names])
        axis.minorticks_off()
        axis.set_title(title, fontsize="medium")
        axis.set_xlabel("tokens of a block")
        axis.grid(alpha=0.4)
    axes[0, 0].set_ylabel("accuracy in %")
    figure.tight_layout()
    figure.savefig(target, dpi=130)
    plt.close(figure)
    return True


def _protocols(results: Results, names: dict[int, str]) -> list[tuple[str, dict[int, Interval]]]:
    """Return title and intervals by block size, for each protocol with at least two of them."""
    found = [
        (title, {size: intervals[name] for size, name in names.items() if name in intervals})
        for title, intervals in results.protocols()
    ]
    return [(title, values) for title, values in found if len(values) > 1]
