"""Test that our masks pass the kit, and that a broken mask fails each check with its message."""

import time
from dataclasses import replace

import pytest
import torch

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.masks import (
    Bidirectional,
    BlockCausal,
    MaskFactory,
    PrefixCausal,
    RandomShown,
    TokenCausal,
    UnitOrder,
)
from xtra_toolkit.masks.rng import mask_rng
from xtra_toolkit.objective import draw, reach
from xtra_toolkit.objective.links import gather_positions
from xtra_toolkit.registry import MASKS, ORDERS
from xtra_toolkit.testing import check_mask, masks

NEXT = dict(type="xtra_toolkit.NextBlock")
MASKED = dict(type="xtra_toolkit.MaskedPatches")
TOKENS, BLOCKS = dict(type="TokenCausal"), dict(type="BlockCausal", block_size=2)
OURS = {
    "Bidirectional": [(dict(), None)],
    "BlockCausal": [(dict(block_size=2), NEXT), (dict(block_size=2, order="random"), NEXT)],
    "RandomShown": [
        (dict(), MASKED),
        (dict(mask_ratio=0.5), MASKED),
        (dict(block_size=2, mask_ratio=0.5), MASKED),
    ],
    "HiddenBlocks": [(dict(num_hidden=4, min_block=1), MASKED)],
    "WithDecoderMask": [(dict(mask=dict(type="PrefixCausal"), decoder=TOKENS), NEXT)],
    "WithPrefix": [(dict(mask=TOKENS), NEXT), (dict(mask=BLOCKS), NEXT)],
    "Reordered": [(dict(mask=BLOCKS, order=dict(type="Backwards")), NEXT)],
}
CASES = [
    (dict(type=f"xtra_toolkit.{name}", **arguments), target)
    for name in sorted(MASKS.module_dict)
    if MASKS.module_dict[name].__module__.startswith("xtra_toolkit.")
    for arguments, target in OURS.get(name, [(dict(), NEXT)])
]


@pytest.fixture(autouse=True)
def an_order(monkeypatch):
    """Orders come with plugins."""
    monkeypatch.setattr(ORDERS, "_module_dict", dict(ORDERS.module_dict))
    ORDERS.register_module(name="Backwards", module=Backwards)


class Backwards(UnitOrder):
    """An order that begins with the last unit."""

    def __call__(self, rows, cols, batch, generator):
        return torch.arange(rows * cols).flip(0)


@pytest.mark.parametrize(("mask", "target"), CASES)
def test_ours(mask, target):
    check_mask(mask, target)


@pytest.mark.parametrize("grid", [PatchGrid(2, 6, (4, 2)), PatchGrid(4, 2, (2, 2), channels=1)])
@pytest.mark.parametrize(("mask", "target"), CASES)
def test_ours_on_rectangles(mask, target, grid):
    check_mask(mask, target, grid)


def test_with_a_token_without_pixels():
    grid = PatchGrid(4, 4, (8, 8), extra=1)
    check_mask(dict(type="xtra_toolkit.RandomShown"), MASKED, grid)
    check_mask(dict(type="xtra_toolkit.TokenCausal"), NEXT, grid)


class Changed(TokenCausal):
    """A token-causal mask that a subclass breaks in ``change(mask, generator)``."""

    def __call__(self, grid, batch=1, generator=None):
        self.grid, self.batch = grid, batch
        return self.change(super().__call__(grid), generator)


class Raises(Changed):
    def change(self, mask, generator):
        raise KeyError("columns")


class Nothing(Changed):
    def change(self, mask, generator):
        return mask.order


class Decreases(Changed):
    def change(self, mask, generator):
        return replace(mask, step=mask.step.flip(0))


class SeesNothing(Changed):
    def change(self, mask, generator):
        return replace(mask, attend=lambda q, k: k < q)


class Short(Changed):
    def change(self, mask, generator):
        return replace(mask, order=mask.order.int())


class LeavesOut(Changed):
    def change(self, mask, generator):
        return replace(mask, order=mask.order[:-2], step=mask.step[:-2])


class Repeats(Changed):
    def change(self, mask, generator):
        return replace(mask, order=torch.cat([mask.order, mask.order[:1]]), step=torch.arange(17))


class GlobalNumbers(Changed):
    random = True

    def change(self, mask, generator):
        return replace(mask, order=torch.randperm(16))


class SaysFixed(Changed):
    def change(self, mask, generator):
        g = masks.gen(0) if generator is None else generator
        return replace(mask, order=torch.randperm(16, generator=g))


class Counts(Changed):
    random, calls = True, 0

    def change(self, mask, generator):
        self.calls += 1
        return replace(mask, order=mask.order.roll(self.calls))


class TwoRows(Changed):
    random = True

    def change(self, mask, generator):
        return replace(mask, order=mask.order.expand(2, -1))


class FollowsTheBatch(Changed):
    random = True

    def change(self, mask, generator):
        return replace(mask, unit=mask.step // self.batch)


class Squeezes(Changed):
    random = True

    def change(self, mask, generator):
        return replace(mask, order=mask.order.expand(self.batch, -1).squeeze(0))


class OneDrawForAll(RandomShown):
    def __call__(self, grid, batch=1, generator=None):
        mask = super().__call__(grid, 1, generator)
        return replace(mask, order=mask.order.expand(batch, -1))


class OneStream(Changed):
    """Draws all images from one stream, so that an image's mask depends on its batch."""

    random = True

    def change(self, mask, generator):
        g = masks.gen(0) if generator is None else generator
        return replace(mask, order=torch.rand(self.batch, 16, generator=g).argsort(1))


class NoFeatures(MaskFactory):
    random = False

    def __call__(self, grid, batch=1, generator=None):
        return TokenCausal()(grid)


class HalfOfTheFeatures(Changed):
    def change(self, mask, generator):
        return mask

    def for_features(self, grid):
        mask = TokenCausal()(grid)
        return replace(mask, order=mask.order[:8], step=mask.step[:8])


class Tensors(Changed):
    def __init__(self, last=15):
        self.step = torch.tensor([*range(15), last])

    def change(self, mask, generator):
        return replace(mask, step=self.step)


class Tuples(Changed):
    def __init__(self, size=(1, 1)):
        self.size = 1 if isinstance(size, tuple) else 2

    def change(self, mask, generator):
        return replace(mask, step=mask.step // self.size)


class Slow(Changed):
    def change(self, mask, generator):
        started = time.process_time()
        while time.process_time() - started < 0.003:
            pass
        return mask


class NowAndThen(PrefixCausal):
    """Leaks under seed 110, which the certificate never draws."""

    def __call__(self, grid, batch=1, generator=None):
        mask = super().__call__(grid, batch, generator)
        rare = generator is not None and generator.initial_seed() == 110
        return replace(mask, step=torch.zeros_like(mask.step)) if rare else mask


class SeldomLeaks(Changed):
    """Lets one draw in 500 attend to everything; the images of a batch share it."""

    random = True

    def change(self, mask, generator):
        rare = mask_rng(generator).shared.randint(0, 500, (1,)) == 0
        return replace(mask, step=mask.step * ~rare)


class SeldomHides(Changed):
    """Hides token 5, and in one image of 500 token 6 as well."""

    random = True

    def change(self, mask, generator):
        visible = (mask.order != 5).repeat(self.batch, 1)
        visible[:, 6] &= mask_rng(generator).randint(0, 500, (self.batch,)) > 0
        return replace(mask, visible=visible)


class SeesAll(Bidirectional):
    """Predicts token 1 from token 0, which may attend to it."""


BROKEN = [
    (Raises, r"no mask came out of \(grid, batch, generator\) \(KeyError: 'columns'\)"),
    (Nothing, "it returned <class 'torch.Tensor'>; return a Mask"),
    (Decreases, "`step` decreases from position 0 to 1; sort the sequence"),
    (SeesNothing, "position 0 may attend to nothing.*let it see itself"),
    (Short, r"must be torch.long, not torch.int32; call .long\(\)"),
    (LeavesOut, r"each of the 16 tokens once.*leaves out \[14, 15\].*pass whole=False"),
    (Repeats, r"it repeats \[0\]; if that is intended, pass whole=False"),
    (GlobalNumbers, r"draws differently under no generator \(evaluation\); take every random"),
    (SaysFixed, "random = False but draws differently under two seeds; set it to True"),
    (Counts, "depends on what it drew before.*store nothing on self"),
    (TwoRows, "`order` has 2 rows for a batch of 1"),
    (FollowsTheBatch, "`unit` of a batch of 2 is not that of a batch of 1"),
    (Squeezes, "`order` of a batch of 2 is not that of a batch of 1"),
    (OneDrawForAll, r"every image of a batch draws the same; draw \(batch, N\) random"),
    (OneStream, r"`order` of an image changes with the batch.*mask_rng\(generator\).rand\(batch"),
    (NoFeatures, r"it has no `for_features\(grid\)`.*return self\(grid\)"),
    (HalfOfTheFeatures, "`for_features` gives no mask that an encoder.*8 different tokens"),
    (Tensors, "holds tensors from __init__.*create them in __call__"),
    (Tuples, r"size': \(1, 1\)\} has been through JSON it is another mask"),
    (Slow, "of processor time, more than 0.003 s; draw with tensor operations"),
    (NowAndThen, r"one of 2,048 draws leaves what was certified.*seed 110.*`extremes\(grid\)`"),
    (SeldomLeaks, r"one of 2,048 draws leaves .*RuntimeError: a draw of the mask leaks"),
    (SeldomHides, r"`visible` must hold as many tokens in each image, .*; given: 14 to 15"),
    (SeesAll, "cannot be certified .ObjectiveRefusedError: SeesAll × NextBlock: .* can see patch"),
]
GIVEN = {Tuples: dict(size=(1, 1))}
TARGET = {OneDrawForAll: MASKED}


@pytest.fixture
def register(monkeypatch):
    monkeypatch.setattr(MASKS, "_module_dict", dict(MASKS.module_dict))
    return lambda kind: MASKS.register_module(module=kind)


@pytest.mark.parametrize(("kind", "sentence"), BROKEN, ids=lambda v: getattr(v, "__name__", ""))
def test_a_broken_mask_fails_with_advice(kind, sentence, register):
    register(kind)
    config = dict(type=kind.__name__, **GIVEN.get(kind, {}))
    seconds = 0.003 if kind is Slow else 10.0
    with pytest.raises(AssertionError, match=sentence):
        check_mask(config, TARGET.get(kind, NEXT), seconds=seconds)


def test_a_config_that_json_cannot_store_is_refused(register):
    register(Changed)
    with pytest.raises(AssertionError, match="no mask can be built of this config"):
        check_mask(dict(type="Changed", size=1), NEXT)
    register(Tuples)
    with pytest.raises(AssertionError, match=r"does not survive JSON.*take numbers, strings"):
        check_mask(dict(type="Tuples", size={1, 2}), NEXT)


def test_tokens_may_be_left_out_or_shown_twice_where_that_is_declared(register):
    for kind in (LeavesOut, Repeats):
        kind.for_features = lambda self, grid: TokenCausal()(grid)
        register(kind)
    check_mask(dict(type="LeavesOut"), NEXT, whole=False)
    with pytest.raises(AssertionError, match=r"can see patch \(0, 0\) through position 0"):
        check_mask(dict(type="Repeats"), NEXT, whole=False)


def test_measured_gradients_find_a_leak_if_the_certificate_is_off(monkeypatch):
    """Check that measured gradients find the leak of blocks × NextToken if all checks are off."""

    def blind(links, tokens, loss_mask, kv_lengths, first):
        lengths = gather_positions(kv_lengths, links.source_positions).amax(-1)
        return reach.Reach(lengths, torch.zeros_like(tokens, dtype=torch.bool))

    monkeypatch.setattr(reach, "staircase_reach", blind)
    monkeypatch.setattr(draw, "staircase_reach", blind)
    config = dict(type="xtra_toolkit.BlockCausal", block_size=2)
    with pytest.raises(AssertionError, match=r"pixels of patch \(0, 1\) move the prediction of"):
        check_mask(config, dict(type="xtra_toolkit.NextToken"))


@pytest.mark.gpu
def test_a_mask_that_ignores_the_generators_device(register):
    class OnTheHost(BlockCausal):
        random = True

        def __init__(self):
            super().__init__(2)

        def __call__(self, grid, batch=1, generator=None):
            mask = super().__call__(grid)
            device = "cpu" if generator is None else generator.device
            noise = torch.rand(len(mask), generator=generator, device=device)
            return replace(mask, order=mask.order[noise.argsort()] + noise.argsort() * 0)

    register(OnTheHost)
    with pytest.raises(AssertionError, match=r"cannot draw on a GPU; give device=generator.device"):
        check_mask(dict(type="OnTheHost"), NEXT)
