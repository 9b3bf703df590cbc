"""check_mask: what the rest of this package relies on, of a mask factory."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.masks import Mask, MaskFactory, build_mask
from xtra_toolkit.masks.rng import StepGenerator
from xtra_toolkit.objective.compiler import draw_samples
from xtra_toolkit.objective.draw import compile_features
from xtra_toolkit.testing.common import (
    CPU,
    GRID,
    SEEDS,
    carried,
    draw_many,
    explain_errors,
    gen,
    one_thread,
    require,
)
from xtra_toolkit.testing.gradients import check_gradients, small_model

FIELDS = ("order", "step", "unit", "visible", "context")
BATCHES = (1, 2, 5)
CUDA = [torch.device("cuda")] if torch.cuda.is_available() else []


@dataclass(frozen=True)
class MaskSubject:
    """A mask under test, and the grid that it is tested on."""

    name: str
    config: dict
    grid: PatchGrid
    whole: bool

    def new(self) -> Callable[..., Mask]:
        """A fresh factory."""
        return build_mask(self.config)

    def draw(self, seed: int | None, batch: int = 3) -> Mask:
        """What a fresh factory draws under a seed; None: what evaluation draws."""
        return self.new()(self.grid, batch, None if seed is None else gen(seed))

    @cached_property
    def draws(self) -> dict[int | None, Mask]:
        """Some thousand draws of a random mask, by seed, and what evaluation draws (None)."""
        with explain_errors(f"{self.name}: no mask came out of (grid, batch, generator)"):
            random = self.new().random
            many = {seed: draw_many(self.new(), self.grid, seed) for seed in SEEDS if random}
            return {None: self.draw(None), 0: self.draw(0), **many}


@one_thread()
def check_mask(
    mask: dict,
    target: dict | None,
    grid: PatchGrid = GRID,
    *,
    whole: bool = True,
    seconds: float = 10.0,
) -> None:
    """Hold a mask to its contract; AssertionError with a sentence that says what to do.

    A mask that draws is drawn some thousand times (``DRAWS``), and each draw is held against the
    rules of a mask and against the certificate.

    Args:
        mask: its config, ``dict(type='xtra_toolkit.MyMask', ...)``.
        target: config of a target that it is meant for; the pair is certified, and the
            certificate held against measured gradients. None: a mask for features only.
        grid: on which. Keep it small: gradients are measured.
        whole: each token stands in the sequence once. False: the mask leaves tokens out, or
            shows one twice, and means it.
        seconds: of processor time that drawing and certifying may take; generous, no benchmark.
    """
    with explain_errors(f"{mask}: no mask can be built of this config"):
        name = type(build_mask(mask)).__name__
    subject = MaskSubject(name, mask, grid, whole)
    for check in CHECKS:
        check(subject)
    started = time.process_time()
    with explain_errors(f"{name} cannot be certified"):
        if target is None:
            draw_samples(subject.new(), grid)
        else:
            model = small_model(mask, target, grid)
    took = time.process_time() - started
    require(
        took <= seconds,
        f"{name}: drawing and certifying on {grid} took {took:.1f} s of processor time, more than "
        f"{seconds} s; draw with tensor operations instead of loops over tokens",
    )
    if target is not None:
        check_gradients(model, name)


def rules(it: MaskSubject) -> None:
    """Whole numbers, never decreasing steps, no empty row: the rules of :class:`Mask`."""
    for mask in it.draws.values():
        require(isinstance(mask, Mask), f"{it.name}: it returned {type(mask)}; return a Mask")
        with explain_errors(f"{it.name} broke a rule of Mask"):
            mask.check(it.grid, it.name)
        require(
            mask.order.dtype == torch.long,
            f"{it.name}: `order` indexes tokens, so it must be of torch.long, not "
            f"{mask.order.dtype}; call .long()",
        )


def tokens(it: MaskSubject) -> None:
    """Each token once."""
    everything = torch.arange(it.grid.tokens + it.grid.extra)
    for seed, mask in it.draws.items() if it.whole else ():
        for order in torch.atleast_2d(mask.order).unique(dim=0):
            if torch.equal(order.sort().values, everything):
                continue
            absent = sorted({*everything.tolist()} - {*order.tolist()})[:8]
            twice = [t for t in everything.tolist() if (order == t).sum() > 1][:8]
            wrong = f"leaves out {absent}" if absent else f"repeats {twice}"
            require(
                False,
                f"{it.name}: `order` must hold each of the {len(everything)} tokens once; under "
                f"seed {seed} it {wrong}; if that is meant, say whole=False",
            )


def seeded(it: MaskSubject) -> None:
    """The same seed draws the same, whatever else has been drawn in the process."""
    for seed in (None, 0, 1):
        drawn = []
        for elsewhere in (1, 2):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(elsewhere)
                drawn.append(it.draw(seed))
        given = "a generator of the same seed" if seed is not None else "no generator (evaluation)"
        require(
            same(*drawn),
            f"{it.name}: it draws differently under {given}; take every random number from the "
            "generator that is passed, which may be None: "
            "xtra_toolkit.masks.mask_rng(generator).rand(batch, ...)",
        )
    if not it.new().random:
        require(
            same(it.draw(0), it.draw(1)) and same(it.draw(0), it.draw(None)),
            f"{it.name} says random = False and draws differently under two seeds; say True",
        )


def stateless(it: MaskSubject) -> None:
    """A draw is a function of its generator: a resumed run goes on as the other would have."""
    used = it.new()
    for seed in (5, 6, None):
        used(it.grid, 3, None if seed is None else gen(seed))
    for seed in (5, None):
        again = used(it.grid, 3, None if seed is None else gen(seed))
        require(
            same(it.draw(seed), again),
            f"{it.name}: what it draws depends on what it drew before, so a resumed run would go "
            "on otherwise; keep nothing on self in __call__",
        )


def batches(it: MaskSubject) -> None:
    """What is predicted together is the same for every batch; rows are of their own image."""
    draws = {batch: it.draw(0, batch) for batch in BATCHES}
    first = draws[BATCHES[0]]
    for batch, mask in draws.items():
        for field in FIELDS:
            one, other = getattr(first, field), getattr(mask, field)
            rows = len(other) if other is not None and other.ndim == 2 else 1
            require(
                rows in (1, batch * mask.masks_per_image),
                f"{it.name}: `{field}` has {rows} rows for a batch of {batch}; a field is (N,) "
                "where the images share it, or (batch, N)",
            )
            alike = (one is None) == (other is None)
            if alike and one is not None:
                alike = one.ndim == other.ndim and one.shape[-1] == other.shape[-1]
                if field in ("unit", "visible") and other.ndim == 1:
                    alike = alike and torch.equal(one, other)
            require(
                alike,
                f"{it.name}: `{field}` of a batch of {batch} is not that of a batch of 1; what is "
                "predicted together is compiled once, so it must not follow the batch",
            )
    for field in FIELDS:
        drawn = [getattr(it.draw(seed, 5), field) for seed in range(8)]
        if any(value is None or value.ndim < 2 or len(value) == 1 for value in drawn):
            continue
        require(
            any((v != v[:1]).any() for v in drawn) or all(torch.equal(drawn[0], v) for v in drawn),
            f"{it.name}: `{field}` is (batch, N), and every image of a batch draws the same; draw "
            "(batch, N) random numbers, or return (N,) where the batch is meant to share them",
        )


def elastic(it: MaskSubject) -> None:
    """An image's mask is its own: it does not change with the batch that the image is in."""
    images, parts = [11, 12, 13, 14, 15], (slice(0, 2), slice(2, 5))
    whole, *split = (
        it.new()(it.grid, len(seeds), StepGenerator(seeds, 7, CPU))
        for seeds in (images, *(images[part] for part in parts))
    )
    for field in FIELDS:
        for part, mask in zip(parts, split, strict=True):
            one, other = getattr(whole, field), getattr(mask, field)
            if one is not None and one.ndim == 2:
                one = one.unflatten(0, (mask.masks_per_image, -1))
                one = (one if one.shape[1] == 1 else one[:, part]).flatten(0, 1)
            require(
                one is other or torch.equal(one, other),
                f"{it.name}: `{field}` of an image changes with the batch that the image is in, so "
                "a run could not go on with other batches or processes; draw each image's numbers "
                "by mask_rng(generator).rand(batch, ...), and what the images share by "
                "mask_rng(generator).shared.rand(...)",
            )


def features(it: MaskSubject) -> None:
    """The mask of a probed encoder names each token once."""
    require(
        type(it.new()).for_features is not MaskFactory.for_features,
        f"{it.name}: it has no `for_features(grid)`, the mask that its encoder keeps when it is "
        "probed; return self(grid), or Bidirectional()(grid)",
    )
    with explain_errors(
        f"{it.name}: `for_features` gives no mask that an encoder can be probed with"
    ):
        compile_features(it.new().for_features(it.grid).check(it.grid, it.name), it.grid)


def round_trip(it: MaskSubject) -> None:
    """The config travels in checkpoints as JSON, and must come back as the same mask."""
    back = carried(it.name, it.config, build_mask)
    require(
        all(same(it.draw(s), back(it.grid, 3, None if s is None else gen(s))) for s in (None, 0)),
        f"{it.name}: after its config {it.config} has been through JSON it is another mask; JSON "
        "makes lists of tuples and strings of keys, so treat them alike",
    )


def devices(it: MaskSubject) -> None:
    """It can be built on the meta device, and draws on the generator's."""
    advice = (
        f"{it.name}: it holds tensors from __init__, which are empty where a model is built on the "
        "meta device; make them in __call__"
    )
    with torch.device("meta"):
        factory = it.new()
    with explain_errors(advice):
        require(same(it.draw(0), factory(it.grid, 3, gen(0))), advice)
    for device in CUDA:
        with explain_errors(
            f"{it.name}: it cannot draw on a GPU; give device=generator.device to every tensor "
            "that it makes"
        ):
            drawn = [it.new()(it.grid, 3, gen(0, device)).to(CPU) for _ in range(2)]
            drawn[0].check(it.grid, it.name)
            require(same(*drawn), f"{it.name}: the same seed draws differently on {device}")


CHECKS = (rules, tokens, seeded, stateless, batches, elastic, features, round_trip, devices)


def same(one: Mask, other: Mask) -> bool:
    """Are all fields of two masks equal, and what may be seen?"""

    def parts(mask: Mask) -> Iterator[torch.Tensor | None]:
        yield from (getattr(mask, field) for field in FIELDS)
        yield mask.attention_mask() if mask.attend is not None else None

    return one.masks_per_image == other.masks_per_image and all(
        (a is None) == (b is None) and (a is None or torch.equal(a, b))
        for a, b in zip(parts(one), parts(other), strict=True)
    )
