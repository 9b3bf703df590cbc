"""check_mask: check what this package relies on in a mask factory."""

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
    build_from_json,
    draw_many,
    explain_errors,
    gen,
    one_thread,
    require,
)
from xtra_toolkit.testing.gradients import check_gradients, small_model

FIELDS = ("order", "step", "unit", "visible", "context", "decoder_step")
BATCHES = (1, 2, 5)
CUDA = [torch.device("cuda")] if torch.cuda.is_available() else []


@dataclass(frozen=True)
class MaskSubject:
    """Hold a mask under test, and the grid on which it is tested."""

    name: str
    config: dict
    grid: PatchGrid
    whole: bool
    mask_tokens: bool

    def new(self) -> Callable[..., Mask]:
        """Build a new factory."""
        return build_mask(self.config)

    def draw(self, seed: int | None, batch: int = 3) -> Mask:
        """Return the draw of a new factory under a seed; None: the draw of evaluation."""
        return self.new()(self.grid, batch, None if seed is None else gen(seed))

    @cached_property
    def draws(self) -> dict[int | None, Mask]:
        """Return draws by seed: ``DRAWS`` of a random mask, and the draw of evaluation (None)."""
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
    mask_tokens: bool = False,
    seconds: float = 10.0,
) -> None:
    """Check that a mask keeps its contract.

    A random mask is drawn a few thousand times (``DRAWS``). Each draw is checked by the rules of a
    mask and against the certificate.

    Args:
        mask: Config of the mask, ``dict(type='xtra_toolkit.MyMask', ...)``.
        target: Config of a target for this mask. The pair is certified, and the certificate is
            compared with measured gradients. None: the mask is for features only.
        grid: Grid on which the mask is tested. Keep it small, since gradients are measured.
        whole: Whether each token must be in the sequence exactly once. Set it to False if the mask
            leaves tokens out or repeats some on purpose.
        mask_tokens: Whether mask tokens stand for hidden tokens in the encoder. Images may then
            hide different numbers of tokens.
        seconds: Processor time that drawing and certifying may take. The default is generous.

    Raises:
        AssertionError: The mask violates the contract; the message tells what to do.
    """
    with explain_errors(f"{mask}: no mask can be built of this config"):
        name = type(build_mask(mask)).__name__
    subject = MaskSubject(name, mask, grid, whole, mask_tokens)
    for check in CHECKS:
        check(subject)
    start = time.process_time()
    with explain_errors(f"{name} cannot be certified"):
        if target is None:
            draw_samples(subject.new(), grid, mask_tokens)
        else:
            model = small_model(mask, target, grid, mask_tokens)
    elapsed = time.process_time() - start
    require(
        elapsed <= seconds,
        f"{name}: drawing and certifying on {grid} took {elapsed:.1f} s of processor time, more "
        f"than {seconds} s; draw with tensor operations instead of loops over tokens",
    )
    if target is not None:
        check_gradients(model, name)


def rules(it: MaskSubject) -> None:
    """Check the rules of :class:`Mask`: integers, steps that never decrease, no empty row."""
    for mask in it.draws.values():
        require(isinstance(mask, Mask), f"{it.name}: it returned {type(mask)}; return a Mask")
        with explain_errors(f"{it.name} broke a rule of Mask"):
            mask.check(it.grid, it.name, it.mask_tokens)
        require(
            mask.order.dtype == torch.long,
            f"{it.name}: `order` indexes tokens, so its dtype must be torch.long, not "
            f"{mask.order.dtype}; call .long()",
        )


def tokens(it: MaskSubject) -> None:
    """Check that the sequence holds each token once."""
    all_tokens = torch.arange(it.grid.tokens + it.grid.extra)
    for seed, mask in it.draws.items() if it.whole else ():
        for order in torch.atleast_2d(mask.order).unique(dim=0):
            if torch.equal(order.sort().values, all_tokens):
                continue
            absent = sorted({*all_tokens.tolist()} - {*order.tolist()})[:8]
            repeated = [t for t in all_tokens.tolist() if (order == t).sum() > 1][:8]
            problem = f"leaves out {absent}" if absent else f"repeats {repeated}"
            raise AssertionError(
                f"{it.name}: `order` must hold each of the {len(all_tokens)} tokens once; under "
                f"seed {seed} it {problem}; if that is intended, pass whole=False",
            )


def seeded(it: MaskSubject) -> None:
    """Check that the same seed gives the same draw, whatever the global random state is."""
    for seed in (None, 0, 1):
        drawn = []
        for global_seed in (1, 2):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(global_seed)
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
            f"{it.name} has random = False but draws differently under two seeds; set it to True",
        )


def stateless(it: MaskSubject) -> None:
    """Check that a draw depends on its generator alone, so that a resumed run draws the same."""
    used = it.new()
    for seed in (5, 6, None):
        used(it.grid, 3, None if seed is None else gen(seed))
    for seed in (5, None):
        again = used(it.grid, 3, None if seed is None else gen(seed))
        require(
            same(it.draw(seed), again),
            f"{it.name}: what it draws depends on what it drew before, so a resumed run would go "
            "on differently; store nothing on self in __call__",
        )


def batches(it: MaskSubject) -> None:
    """Check that shared fields are the same for every batch size, and that rows differ."""
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
            equal = (one is None) == (other is None)
            if equal and one is not None:
                equal = one.ndim == other.ndim and one.shape[-1] == other.shape[-1]
                if field in ("unit", "visible") and other.ndim == 1:
                    equal = equal and torch.equal(one, other)
            require(
                equal,
                f"{it.name}: `{field}` of a batch of {batch} is not that of a batch of 1; what is "
                "predicted together is compiled once, so it must not depend on the batch",
            )
    for field in FIELDS:
        drawn = [getattr(it.draw(seed, 5), field) for seed in range(8)]
        if any(value is None or value.ndim < 2 or len(value) == 1 for value in drawn):
            continue
        require(
            any((v != v[:1]).any() for v in drawn) or all(torch.equal(drawn[0], v) for v in drawn),
            f"{it.name}: `{field}` is (batch, N), and every image of a batch draws the same; draw "
            "(batch, N) random numbers, or return (N,) if the images of a batch share them",
        )


def elastic(it: MaskSubject) -> None:
    """Check that the mask of an image does not depend on the batch that the image is in."""
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
    """Check that ``for_features`` is implemented and names each token once."""
    require(
        type(it.new()).for_features is not MaskFactory.for_features,
        f"{it.name}: it has no `for_features(grid)`, the mask of its encoder when it is probed; "
        "return self(grid), or Bidirectional()(grid)",
    )
    with explain_errors(
        f"{it.name}: `for_features` gives no mask that an encoder can be probed with"
    ):
        compile_features(it.new().for_features(it.grid).check(it.grid, it.name), it.grid)


def round_trip(it: MaskSubject) -> None:
    """Check that the config gives the same mask after JSON, which is how checkpoints hold it."""
    mask = build_from_json(it.name, it.config, build_mask)
    require(
        all(same(it.draw(s), mask(it.grid, 3, None if s is None else gen(s))) for s in (None, 0)),
        f"{it.name}: after its config {it.config} has been through JSON it is another mask; JSON "
        "turns tuples into lists and keys into strings, so accept both",
    )


def devices(it: MaskSubject) -> None:
    """Check that a mask can be built on the meta device and draws on the generator's device."""
    advice = (
        f"{it.name}: it holds tensors from __init__, which are empty if a model is built on the "
        "meta device; create them in __call__"
    )
    with torch.device("meta"):
        factory = it.new()
    with explain_errors(advice):
        require(same(it.draw(0), factory(it.grid, 3, gen(0))), advice)
    for device in CUDA:
        with explain_errors(
            f"{it.name}: it cannot draw on a GPU; give device=generator.device to every tensor "
            "that it creates"
        ):
            drawn = [it.new()(it.grid, 3, gen(0, device)).to(CPU) for _ in range(2)]
            drawn[0].check(it.grid, it.name, it.mask_tokens)
            require(same(*drawn), f"{it.name}: the same seed draws differently on {device}")


CHECKS = (rules, tokens, seeded, stateless, batches, elastic, features, round_trip, devices)


def same(one: Mask, other: Mask) -> bool:
    """Return whether all fields and the predicates of two masks are equal."""

    def parts(mask: Mask) -> Iterator[torch.Tensor | None]:
        yield from (getattr(mask, field) for field in FIELDS)
        for part in (mask, mask.of_decoder()):
            yield part.attention_mask() if part.attend is not None else None

    return one.masks_per_image == other.masks_per_image and all(
        (a is None) == (b is None) and (a is None or torch.equal(a, b))
        for a, b in zip(parts(one), parts(other), strict=True)
    )
