"""The certificate: no prediction can see its target, and nothing is computed that none reads.

``Planner`` joins a mask factory and a target factory on one grid. When it is made it certifies
the pair, over extreme and sampled draws where the mask is random; after that it hands out plans.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.objective.mask import Mask
from xtra_toolkit.objective.plan import (
    Bounds,
    Links,
    Plan,
    compile_plan,
    compute_kv_lengths,
    compute_loss_mask,
    compute_output_positions,
    first_visible,
    gather_positions,
    kind_of,
    read_lengths_and_leaks,
    visible_of,
)

SAMPLED_DRAWS = 8
STRUCTURE = ("unit", "visible")  # what the links follow from; only `order` and `step` are data


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
        self.mask, self.grid, self.local = mask, grid, getattr(target, "local", True)
        self.random = getattr(mask, "random", True)
        self.pair = f"{type(mask).__name__} × {type(target).__name__}"
        with torch.device("cpu"):
            samples = sample(mask, grid)
            self.links = target.links(samples[0], grid)
            for drawn in samples:
                certify(drawn, self.links, grid, depth, self.pair)
            if not self.random:
                self.links = drop_dead(samples[0], self.links)
            self.bounds = compute_bounds(samples, self.links, grid, depth, self.random)
        self.structure = samples[0]
        self.length, self.has_masked_tokens = len(samples[0]), samples[0].visible is not None
        orders = [torch.atleast_2d(m.order)[:1] for m in samples]
        self.order_is_hidden = any(not torch.equal(orders[0], o) for o in orders) and not all(
            same_place(link) or link.positioned for link in self.links
        )
        self._plans: dict[torch.device, Plan] = {}
        self._moved: dict[torch.device, tuple[Mask, list[Links]]] = {}

    @torch.inference_mode(False)  # a plan is kept, and training may follow
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
        if device not in self._moved:  # once: a copy to a GPU makes the host wait
            links = [link.to(device) for link in self.links]
            self._moved[device] = self.structure.to(device), links
        structure, links = self._moved[device]
        mask = mask.to(device)
        if self.random:
            check_structure(structure, mask)
        return compile_plan(mask, links, self.grid, self.bounds)

    @property
    def certificate(self) -> str:
        """What was certified, in a few lines."""
        lines = [f"{self.pair} on {self.grid}"]
        for sees_target in (False, True):
            links = [link for link in self.links if link.sees_target == sees_target]
            if links:
                says = "may see its target, as the target declares"
                counted = _counted(links, self.structure.masks_per_image)
                lines.append(f"{counted}, {says if sees_target else 'none sees its target'}")
        if not self.local:
            lines.append(
                "the values of a target depend on pixels of other tokens, which the prediction "
                "may see"
            )
        num_computed, encoded = self.bounds.num_computed, self.bounds.num_encoded
        lines.append(
            f"{num_computed} of {self.length} positions computed, {encoded} in the encoder"
        )
        if self.order_is_hidden:
            lines.append("the order is drawn for each batch, and the model is not told which")
        if self.random:
            lines.append(
                f"certified over {SAMPLED_DRAWS} sampled and all extreme draws, "
                "and asserted in each step"
            )
        return "; ".join(lines)


def _counted(links: list[Links], masks_per_image: int) -> str:
    """'15 predictions, each of 16 tokens from 16 outputs'; '4 × 9' of several masks an image."""
    count = sum(link.source_positions.shape[1] for link in links)
    sizes = (
        ("token", {link.target_positions.shape[-1] for link in links}),
        ("output", {link.source_positions.shape[-1] for link in links}),
    )
    tokens, outputs = (
        f"{min(s)} to {max(s)} {what}s" if len(s) > 1 else f"{max(s)} {what}{'s' * (max(s) > 1)}"
        for what, s in sizes
    )
    heads = f" in {len(links)} groups" if len(links) > 1 else ""
    times = f"{masks_per_image} × " if masks_per_image > 1 else ""
    return f"{times}{count} prediction{'s' * (count > 1)}{heads}, each of {tokens} from {outputs}"


def sample(mask: Callable[..., Mask], grid: PatchGrid) -> list[Mask]:
    """Draws to certify: one of a fixed mask, sampled and extreme ones of a random one."""
    name = type(mask).__name__
    if not getattr(mask, "random", True):
        fixed = mask(grid).check(grid, name)
        if any(v is not None and v.ndim > 1 for v in (fixed.order, fixed.step, fixed.visible)):
            raise ValueError(f"{name} has random = False, but its fields differ between images")
        return [fixed]
    drawn = [mask(grid, 2, torch.Generator().manual_seed(seed)) for seed in range(SAMPLED_DRAWS)]
    drawn += [mask(grid, 2, None)]
    if hasattr(mask, "extremes"):
        drawn += mask.extremes(grid)
    if any(m.attend is not None for m in drawn):
        raise ValueError(
            f"{name} has a predicate (`attend`) and is random; a predicate is followed once, when "
            "the model is built, so it must be fixed (random = False)"
        )
    for m in drawn:
        m.check(grid, name)
        for field in STRUCTURE:
            first, other = getattr(drawn[0], field), getattr(m, field)
            if (first is None) != (other is None) or (
                first is not None and first.ndim == 1 and not torch.equal(first, other)
            ):
                raise ValueError(
                    f"{name}: `{field}` differs from draw to draw; what is predicted from where "
                    "is compiled once, so draw the `order` (the shown tokens first) instead"
                )
    return drawn


def check_structure(certified: Mask, drawn: Mask) -> None:
    """A draw has the structure that was certified, both on one device, which asserts the values."""
    for field in ("order", *STRUCTURE):
        first, other = getattr(certified, field), getattr(drawn, field)
        if (first is None) != (other is None) or (
            first is not None and (first.ndim, len(certified)) != (other.ndim, len(drawn))
        ):
            raise ValueError(f"a draw of the mask has another `{field}` than was certified")
        if field in STRUCTURE and first is not None and first.ndim == 1:
            torch._assert_async(
                (first == other).all(), f"a draw of the mask changes `{field}`, compiled once"
            )
    if drawn.attend is not None or drawn.masks_per_image != certified.masks_per_image:
        raise ValueError("a draw of the mask has a predicate or copies that were not certified")


def same_place(link: Links) -> bool:
    """Does every prediction read out at its target's own position?"""
    return link.source_positions.shape == link.target_positions.shape and bool(
        (link.source_positions == link.target_positions).all()
    )


def drop_dead(mask: Mask, links: list[Links]) -> list[Links]:
    """Links of a fixed mask without those whose targets are all given: nothing reads them."""
    kept = []
    for link in links:
        counts = compute_loss_mask(mask, link).any(0)
        if counts.any():
            kept.append(
                replace(
                    link,
                    source_positions=link.source_positions[:, counts],
                    target_positions=link.target_positions[:, counts],
                )
            )
    return kept


def certify(
    mask: Mask, links: list[Links], grid: PatchGrid, depth: tuple[int, int], pair: str
) -> None:
    """Refuse one draw that leaks or cannot be served; ValueError says why."""
    order = torch.atleast_2d(mask.order)
    _check_positioned(links, pair)
    for link in links:
        tokens = gather_positions(order, link.target_positions)
        if (tokens >= grid.tokens).any():
            token = int(tokens[tokens >= grid.tokens][0])
            raise ValueError(f"{pair}: {grid.name(token)} is a target, and has nothing to predict")
        if mask.order.ndim == 2 and not (same_place(link) or link.positioned):
            raise ValueError(
                f"{pair}: the order differs from image to image, and nothing tells the model "
                "where its target lies; predict at the target's own position (MaskedPatches), tell "
                "the source (positioned=True), or share the order in the batch"
            )
        _, seen, leaks = trace_reach(mask, link, grid, depth)
        if leaks.any():
            b, g, t = leaks.nonzero()[0].tolist()
            raise ValueError(f"{pair}: {_leak(mask, link, grid, seen, (b, g, t))}")
    if not any(compute_loss_mask(mask, link).any() for link in links):
        raise ValueError(f"{pair}: nothing is predicted, every target is given")


def _check_positioned(links: list[Links], pair: str) -> None:
    positioned = [link for link in links if link.positioned]
    if any(
        link.source_positions.shape[-1] != link.target_positions.shape[-1] for link in positioned
    ):
        shapes = {
            (link.source_positions.shape[-1], link.target_positions.shape[-1])
            for link in positioned
        }
        raise ValueError(
            f"{pair}: a positioned link tells each source its target, and needs as many of the "
            f"one as of the other; given (sources, targets): {sorted(shapes)}"
        )
    sources = [
        position for link in positioned for position in link.source_positions[0].flatten().tolist()
    ]
    if len(set(sources)) < len(sources):
        twice = next(p for p in sources if sources.count(p) > 1)
        raise ValueError(
            f"{pair}: position {twice} is a positioned source twice, and can be told one target "
            "alone; predict a single distance (look_ahead=1)"
        )


def trace_reach(
    mask: Mask, link: Links, grid: PatchGrid, depth: tuple[int, int]
) -> tuple[Tensor, Tensor | None, Tensor]:
    """How far each prediction reads, what it sees and which targets leak, on the host.

    Returns:
        reads (B or 1, G): 1 + the last position that it reads, 0 where it does not count;
        seen (G, N) bool: shown positions that reach it, for a predicate (None for a staircase,
        where they are the shown ones below ``reads``); leaks (B or 1, G, T) bool.
    """
    if mask.attend is None:
        tokens, loss_mask = (
            gather_positions(torch.atleast_2d(mask.order), link.target_positions),
            compute_loss_mask(mask, link),
        )
        read_lengths, leaks = read_lengths_and_leaks(
            link, tokens, loss_mask, compute_kv_lengths(mask), first_visible(mask, grid)
        )
        return read_lengths, None, leaks
    visible = visible_of(mask)
    if visible.ndim > 1 or mask.step.ndim > 1 or link.source_positions.shape[0] > 1:
        raise ValueError("a mask with a predicate must be the same for all images of the batch")
    attention_mask = mask.attention_mask()[0]
    outer = closure(attention_mask, depth[1])
    inner = torch.zeros_like(attention_mask)
    inner[visible[:, None] & visible[None, :]] = closure(
        attention_mask[visible][:, visible], depth[0]
    ).flatten()
    through = outer[link.source_positions[0]].any(1)
    seen = ((through & visible).float() @ inner.float()) > 0
    loss_mask = compute_loss_mask(mask, link)
    last = (torch.arange(len(mask)) + 1) * (through | seen)
    order, tokens = (
        torch.atleast_2d(mask.order),
        gather_positions(torch.atleast_2d(mask.order), link.target_positions),
    )
    leaks = ((order[:, None, None, :] == tokens[..., None]) & seen[None, :, None, :]).any(-1)
    return last.amax(-1) * loss_mask, seen, leaks & loss_mask[..., None] & (not link.sees_target)


def closure(attention_mask: Tensor, depth: int) -> Tensor:
    """(N, N) bool: what ``depth`` layers of attention with residuals carry from k to q."""
    own = torch.eye(len(attention_mask), dtype=torch.bool)
    reach = own
    for _ in range(depth):
        further = (reach.float() @ (attention_mask | own).float()) > 0
        if torch.equal(further, reach):
            break
        reach = further
    return reach


def compute_bounds(
    samples: list[Mask],
    links: list[Links],
    grid: PatchGrid,
    depth: tuple[int, int],
    random: bool,
) -> Bounds:
    """What holds for all draws; of a random mask, every source, since any may come to count."""
    num_computed = max(
        int(trace_reach(m, link, grid, depth)[0].max()) for m in samples for link in links
    )
    if random:
        num_computed = max(
            num_computed, 1 + max(int(link.source_positions.max()) for link in links)
        )
    if any(visible_of(m).ndim > 1 for m in samples):
        num_computed = len(samples[0])  # images differ in how many shown tokens lie below it
    counts = {
        int(c) for m in samples for c in torch.atleast_2d(visible_of(m))[:, :num_computed].sum(-1)
    }
    if len(counts) != 1:
        raise ValueError(f"each draw must show equally many tokens; this mask shows {counts}")
    encoded = counts.pop()
    kinds, host_kv_lengths = zip(
        *(_encoder_and_decoder_kv_lengths(m, num_computed) for m in samples), strict=True
    )
    loss_mask = tuple(
        all(bool(compute_loss_mask(m, link).all()) for m in samples) for link in links
    )
    dense = None
    if samples[0].attend is not None:
        attention_mask = samples[0].attention_mask()[0, :num_computed, :num_computed]
        visible = visible_of(samples[0])[:num_computed]
        dense = attention_mask[visible][:, visible], attention_mask
        for part, rows in zip(("encoder", "decoder"), dense, strict=True):
            if not rows.any(-1).all():
                row = int((~rows.any(-1)).nonzero()[0])
                raise ValueError(
                    f"in the {part}, row {row} of the predicate may attend to nothing that is "
                    "shown and computed, and attention would return zeros for it without a word; "
                    "let each position see itself"
                )
    both = tuple(k[0] if len(set(k)) == 1 else "staircase" for k in zip(*kinds, strict=True))
    same = tuple(s[0] if len(set(s)) == 1 else None for s in zip(*host_kv_lengths, strict=True))
    output_positions = compute_output_positions(links, num_computed)
    spans = tuple(_span(link, output_positions) for link in links)
    return Bounds(num_computed, encoded, both, same, loss_mask, spans, dense, output_positions)


def _encoder_and_decoder_kv_lengths(mask: Mask, num_computed: int) -> tuple[tuple, tuple]:
    """Kind of the attention among the shown and among all, of the first ``keep`` positions.

    And for both how many each position reads, None where images differ.
    """
    if mask.attend is not None:
        return ("dense", "dense"), (None, None)
    visible = torch.atleast_2d(visible_of(mask))[:, :num_computed]
    outer = compute_kv_lengths(mask)[:, :num_computed].clamp(max=num_computed)
    before = nn.functional.pad(visible.long().cumsum(1), (1, 0))
    inner = (
        gather_positions(before, outer)[visible.expand(len(outer), -1)]
        if len(visible) == 1
        else None
    )
    if inner is None:
        return ("staircase", kind_of(outer)), (None, _shared(outer))
    inner = inner.view(len(outer), -1)
    return (kind_of(inner), kind_of(outer)), (_shared(inner), _shared(outer))


def _shared(kv_lengths: Tensor) -> tuple[int, ...] | None:
    return tuple(kv_lengths[0].tolist()) if (kv_lengths == kv_lengths[:1]).all() else None


def _span(link: Links, output_positions: tuple[int, ...] | None) -> tuple[int, int] | None:
    flat = link.source_positions.flatten(1)
    if output_positions is not None:
        flat = torch.searchsorted(torch.tensor(output_positions), flat)
    start = int(flat[0, 0])
    run = torch.arange(start, start + flat.shape[1])
    return (start, start + len(run)) if len(flat) == 1 and (flat[0] == run).all() else None


def _leak(
    mask: Mask, link: Links, grid: PatchGrid, seen: Tensor | None, where: tuple[int, int, int]
) -> str:
    b, g, t = where
    order = torch.atleast_2d(mask.order)[b % len(torch.atleast_2d(mask.order))]
    sources = link.source_positions[b % len(link.source_positions), g].tolist()
    token = int(order[link.target_positions[b % len(link.target_positions), g, t]])
    if seen is None:
        firsts = first_visible(mask, grid)
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
