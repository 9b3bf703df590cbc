"""The certificate: no prediction can see its target, and nothing is computed that none reads.

``Planner`` joins a mask factory and a target factory on one grid. When it is made it certifies
the pair, over extreme and sampled draws where the mask is random; after that it hands out plans.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.masks.mask import Mask
from xtra_toolkit.plan import (
    Bounds,
    Links,
    Plan,
    at,
    compile_plan,
    first_shown,
    kind_of,
    live_of,
    reads_and_leaks,
    sees,
    shown_of,
)

SAMPLED_DRAWS = 8


class Planner:
    """Plans for one mask, one target and one grid.

    Args:
        mask: a mask factory, ``(grid, batch, generator) -> Mask``. ``random = False`` on it says
            that it always returns the same.
        target: a target factory, see :mod:`xtra_toolkit.targets`.
        grid: the image's.
        depth: layers of the encoder and of the decoder: how far a mask with a predicate is
            followed.

    Raises:
        ValueError: the pair cannot be certified; the sentence says why, in image coordinates.
    """

    def __init__(
        self,
        mask: Callable[..., Mask],
        target: nn.Module,
        grid: PatchGrid,
        depth: tuple[int, int] = (1, 1),
    ):
        self.mask, self.grid = mask, grid
        self.random = getattr(mask, "random", True)
        self.pair = f"{type(mask).__name__} × {type(target).__name__}"
        with torch.device("cpu"):
            samples = sample(mask, grid)
            self.links = target.links(samples[0], grid)
            for drawn in samples:
                certify(drawn, self.links, grid, depth, self.pair)
            self.bounds = bounds_of(samples, self.links, grid, depth)
        self.length, self.hides = len(samples[0]), samples[0].shown is not None
        self._plans: dict[torch.device, Plan] = {}
        self._moved: dict[torch.device, list[Links]] = {}

    def __call__(
        self, batch: int, device: torch.device, generator: torch.Generator | None = None
    ) -> Plan:
        """The plan of a batch; without a generator, what evaluation draws."""
        if self.random:
            return self._compile(self.mask(self.grid, batch, generator), device)
        if device not in self._plans:
            self._plans[device] = self._compile(self.mask(self.grid), device)
        return self._plans[device]

    def _compile(self, mask: Mask, device: torch.device) -> Plan:
        if device not in self._moved:
            self._moved[device] = [link.to(device) for link in self.links]
        return compile_plan(mask.to(device), self._moved[device], self.grid, self.bounds)

    @property
    def certificate(self) -> str:
        """What was certified, in a few lines."""
        lines = [f"{self.pair} on {self.grid}"]
        for link in self.links:
            (_, g, s), t = link.sources.shape, link.targets.shape[-1]
            sees = (
                "may see their targets, as the target declares"
                if link.sees_target
                else ("cannot see their targets")
            )
            lines.append(f"{g} predictions, each of {t} tokens from {s} outputs, {sees}")
        keep, encoded = self.bounds.keep, self.bounds.encoded
        lines.append(f"{keep} of {self.length} positions computed, {encoded} in the encoder")
        if self.random:
            lines.append(
                f"certified over {SAMPLED_DRAWS} sampled and all extreme draws, "
                "and asserted in each step"
            )
        return "; ".join(lines)


def sample(mask: Callable[..., Mask], grid: PatchGrid) -> list[Mask]:
    """Draws to certify: one of a fixed mask, sampled and extreme ones of a random one."""
    name = type(mask).__name__
    if not getattr(mask, "random", True):
        return [mask(grid).check(grid, name)]
    drawn = [mask(grid, 2, torch.Generator().manual_seed(seed)) for seed in range(SAMPLED_DRAWS)]
    drawn += [mask(grid, 2, None)]
    if hasattr(mask, "extremes"):
        drawn += mask.extremes(grid)
    return [m.check(grid, name) for m in drawn]


def certify(
    mask: Mask, links: list[Links], grid: PatchGrid, depth: tuple[int, int], pair: str
) -> None:
    """Refuse one draw that leaks or cannot be served; ValueError says why."""
    order = torch.atleast_2d(mask.order)
    for link in links:
        tokens = at(order, link.targets)
        if (tokens >= grid.tokens).any():
            token = int(tokens[tokens >= grid.tokens][0])
            raise ValueError(f"{pair}: {grid.name(token)} is a target, and has nothing to predict")
        same_place = link.sources.shape == link.targets.shape and bool(
            (link.sources == link.targets).all()
        )
        if mask.order.ndim == 2 and not same_place:
            raise ValueError(
                f"{pair}: the order differs from image to image, and nothing tells the model "
                "where its target lies; predict at the target's own position (MaskedPatches), or "
                "share the order in the batch"
            )
        _, seen, leaks = follow(mask, link, grid, depth)
        if leaks.any():
            b, g, t = leaks.nonzero()[0].tolist()
            raise ValueError(f"{pair}: {_leak(mask, link, grid, seen, (b, g, t))}")
    if not any(live_of(mask, link).any() for link in links):
        raise ValueError(f"{pair}: nothing is predicted, every target is given")


def follow(
    mask: Mask, link: Links, grid: PatchGrid, depth: tuple[int, int]
) -> tuple[Tensor, Tensor | None, Tensor]:
    """How far each prediction reads, what it sees and which targets leak, on the host.

    Returns:
        reads (B or 1, G): 1 + the last position that it reads, 0 where it does not count;
        seen (G, N) bool: shown positions that reach it, for a predicate (None for a staircase,
        where they are the shown ones below ``reads``); leaks (B or 1, G, T) bool.
    """
    if mask.attend is None:
        reads, leaks = reads_and_leaks(mask, link, grid)
        return reads, None, leaks
    shown = shown_of(mask)
    if shown.ndim > 1 or mask.step.ndim > 1 or link.sources.shape[0] > 1:
        raise ValueError("a mask with a predicate must be the same for all images of the batch")
    visible = mask.visible()[0]
    outer = closure(visible, depth[1])
    inner = torch.zeros_like(visible)
    inner[shown[:, None] & shown[None, :]] = closure(visible[shown][:, shown], depth[0]).flatten()
    through = outer[link.sources[0]].any(1)
    seen = ((through & shown).float() @ inner.float()) > 0
    live = live_of(mask, link)
    last = (torch.arange(len(mask)) + 1) * (through | seen)
    order, tokens = torch.atleast_2d(mask.order), at(torch.atleast_2d(mask.order), link.targets)
    leaks = ((order[:, None, None, :] == tokens[..., None]) & seen[None, :, None, :]).any(-1)
    return last.amax(-1) * live, seen, leaks & live[..., None] & (not link.sees_target)


def closure(visible: Tensor, depth: int) -> Tensor:
    """(N, N) bool: what ``depth`` layers of attention with residuals carry from k to q."""
    own = torch.eye(len(visible), dtype=torch.bool)
    reach = own
    for _ in range(depth):
        further = (reach.float() @ (visible | own).float()) > 0
        if torch.equal(further, reach):
            break
        reach = further
    return reach


def bounds_of(
    samples: list[Mask], links: list[Links], grid: PatchGrid, depth: tuple[int, int]
) -> Bounds:
    """What holds for all draws."""
    keep = max(int(follow(m, link, grid, depth)[0].max()) for m in samples for link in links)
    if any(shown_of(m).ndim > 1 for m in samples):
        keep = len(samples[0])  # images differ in how many shown tokens lie below it
    counts = {int(c) for m in samples for c in torch.atleast_2d(shown_of(m))[:, :keep].sum(-1)}
    if len(counts) != 1:
        raise ValueError(f"each draw must show equally many tokens; this mask shows {counts}")
    encoded = counts.pop()
    kinds = [_kinds(m, keep) for m in samples]
    live = tuple(all(bool(live_of(m, link).all()) for m in samples) for link in links)
    dense = None
    if samples[0].attend is not None:
        visible = samples[0].visible()[0, :keep, :keep]
        shown = shown_of(samples[0])[:keep]
        dense = visible[shown][:, shown], visible
    both = tuple(k[0] if len(set(k)) == 1 else "staircase" for k in zip(*kinds, strict=True))
    return Bounds(keep, encoded, both, live, tuple(_span(link) for link in links), dense)


def _kinds(mask: Mask, keep: int) -> tuple[str, str]:
    """Kinds of the attention among the shown and among all, of the first ``keep`` positions."""
    if mask.attend is not None:
        return "dense", "dense"
    shown = torch.atleast_2d(shown_of(mask))[:, :keep]
    outer = sees(mask)[:, :keep].clamp(max=keep)
    before = nn.functional.pad(shown.long().cumsum(1), (1, 0))
    inner = at(before, outer)[shown.expand(len(outer), -1)] if len(shown) == 1 else None
    if inner is None:
        return "staircase", kind_of(outer)
    return kind_of(inner.view(len(outer), -1)), kind_of(outer)


def _span(link: Links) -> tuple[int, int] | None:
    flat = link.sources.flatten(1)
    start = int(flat[0, 0])
    run = torch.arange(start, start + flat.shape[1])
    return (start, start + len(run)) if len(flat) == 1 and (flat[0] == run).all() else None


def _leak(
    mask: Mask, link: Links, grid: PatchGrid, seen: Tensor | None, where: tuple[int, int, int]
) -> str:
    b, g, t = where
    order = torch.atleast_2d(mask.order)[b % len(torch.atleast_2d(mask.order))]
    sources = link.sources[b % len(link.sources), g].tolist()
    token = int(order[link.targets[b % len(link.targets), g, t]])
    if seen is None:
        firsts = first_shown(mask, grid)
        position = int(firsts[b % len(firsts), token])
        why = "whose step is not later"
    else:
        position = int(((order == token) & seen[g]).nonzero()[0])
        why = "which reaches it through the layers"
    name = grid.name(token)
    places = f" {sources[0]}" if len(sources) == 1 else f"s {sources[0]} to {sources[-1]}"
    return (
        f"the prediction of {name} from position{places} can see {name} through position "
        f"{position}, {why}; a prediction must not see what it has to produce: choose a mask "
        "that comes to it later, or another target"
    )
